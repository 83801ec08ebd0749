# The segment format of FORMAT.md in Kaitai Struct. FORMAT.md is the specification and says what the
# fields mean; the rule numbers (F1 and up) are its. tools/test reads every golden journal with the
# reader that is generated from this file and compares it with `phase-journal dump`.
#
# Kaitai Struct computes no checksums and judges no damage. Whoever uses the generated reader does
# (F3, F8, F11 to F13, F20); tests/kaitai/read.py shows how. So that a damaged segment can still be
# looked into, nothing behind the segment's header is read before it is asked for: batches, records
# and bodies are instances, and `batches` ends where no batch can be.
meta:
  id: phase_journal_segment
  title: Segment of a phase-journal journal, version 2
  file-extension: seg
  license: MIT OR Apache-2.0
  ks-version: "0.11"
  encoding: UTF-8
  endian: le
doc: |
  A segment is a file of a journal, named by its number in decimal with 16 digits and `.seg` (F2). Numbers
  are unsigned and little-endian, identities are 16 bytes in the order of their text form, times are
  nanoseconds, text is UTF-8 (F1).
doc-ref: FORMAT.md

seq:
  - id: header
    type: segment_header
    size: 4096
    doc: |
      F4. The first block, written once. F24. Where it is damaged, whoever uses the reader puts the
      file's last block in its place.
instances:
  header_copy:
    pos: header.len_segment - 4096
    size: 4096
    type: segment_header
    doc: F24. The same once more, at the segment's end.
  area:
    pos: 4096
    size: >-
      (header.len_segment - 4096 < _io.size ? header.len_segment - 4096 : _io.size) - 4096
    type: batch_area
    doc: |
      F4. What lies beyond the segment's size is not part of it; a file that is shorter was cut off.

types:
  segment_header:
    seq:
      - id: magic
        contents: [PHJSEG, 0x1a, 0x0a]
        doc: F5. The same in every version.
      - id: version
        type: u4
        valid: 2
        doc: F5. Another version is refused by its number; it is not damage.
      - id: len_block
        type: u4
        valid: 4096
        doc: F14. Block size.
      - id: journal
        size: 16
        doc: Identity of the journal, the same in all its segments.
      - id: host
        size: 16
        doc: The host that made the segment.
      - id: number
        type: u8
        valid: { min: 1 }
        doc: F2. As in the file's name.
      - id: len_segment
        type: u8
        valid: { expr: _ >= 65536 and _ <= 1073741824 and _ % 4096 == 0 }
        doc: F4, F14. Size of this file.
      - id: salt
        size: 16
        doc: F3. Goes into every checksum behind this header.
      - id: first
        type: u8
        valid: { min: 1 }
        doc: F7. LSN of the first record in this segment.
      - id: epoch
        type: u4
        valid: { min: 1 }
        doc: F19. Number of the opening that made it.
      - id: flags
        type: u4
        valid: { max: 1 }
        doc: F15. Bit 0 says that the fields of the segment before are set; all others are 0.
      - id: opening
        size: 16
        doc: F19. Identity of the opening that made it.
      - id: before
        type: segment_end
        doc: F20. What the segment before held; to be believed only with `has_before`.
      - id: reserved
        type: u4
        repeat: expr
        repeat-expr: 987
        valid: 0
        doc: F15.
      - id: checksum
        type: u4
        doc: |
          F3. Over bytes 0 to 4091 of this block, without salt. F6. Also the chain value before the first
          batch.
    instances:
      has_before:
        value: flags == 1
  segment_end:
    doc: F20. Where a segment ended, as its writer had it acknowledged.
    seq:
      - id: number
        type: u8
        doc: Of that segment.
      - id: end
        type: u8
        doc: Where its last valid batch ended; 0 if its header was damaged.
      - id: chain
        type: u4
        doc: F6. Chain value after that batch; 0 if its header was damaged.
      - id: reserved
        type: u4
        valid: 0
        doc: F15.
      - id: last
        type: u8
        doc: Its last LSN.

  batch_area:
    doc: Everything between the segment's header and its copy.
    instances:
      batches:
        pos: 0
        type: batch(_io.pos + 4096)
        repeat: until
        repeat-until: _io.eof or not _.is_batch
        if: _io.size > 0
        doc: |
          F7. Batch follows on batch. The last element is no batch (its `is_batch` is false) unless the
          last batch fills the segment: it stands where the zero tail, a torn batch or damage begins.
  batch:
    doc: F16. The records made durable by one write of whole blocks and one sync.
    params:
      - id: place
        type: u8
        doc: Where in the segment it is looked for.
    seq:
      - id: header
        type: batch_header
        size: 96
        if: not is_cut
      - id: content
        type: batch_content
        size: header.len_content
        if: is_batch
        doc: Its records, protected by `header.content_checksum`.
      - id: padding
        size: header.len_batch - 96 - header.len_content
        if: is_batch
        doc: F15. Zeros up to the next block.
    instances:
      is_cut:
        value: _io.size - _io.pos < 96
        doc: The file ends before the header does.
      is_batch:
        value: >-
          not is_cut and header.is_possible and header.segment == _root.header.number
          and header.offset == place and header.epoch == _root.header.epoch
          and header.len_batch <= _io.size - (place - 4096)
        doc: F7, F14, F15. A header that can stand here. Its checksums and its chain value are not looked at.
  batch_header:
    seq:
      - id: magic
        size: 4
        doc: '`50 48 4a 42`, "PHJB".'
      - id: len_header
        type: u4
        doc: "96"
      - id: first
        type: u8
        doc: F7. LSN of its first record; not 0.
      - id: num_records
        type: u4
        doc: F14. 1 to 16384.
      - id: len_content
        type: u4
        doc: F14. Bytes of its records, a multiple of 8, at least 48 per record.
      - id: epoch
        type: u4
        doc: F7. The epoch in the segment's header.
      - id: chain
        type: u4
        doc: F6. The chain value before it.
      - id: boot
        size: 16
        doc: Identity of the host's boot.
      - id: wall
        type: u8
        doc: Nanoseconds since 1970, when it was written; only for people.
      - id: monotonic
        type: u8
        doc: Nanoseconds since that boot; only for people.
      - id: segment
        type: u8
        doc: F7. The number of the segment it was written for.
      - id: offset
        type: u8
        doc: F7. Where in that segment.
      - id: content_checksum
        type: u4
        doc: F3. Salted, over the records' bytes.
      - id: reserved
        type: u8
        doc: F15. 0.
      - id: checksum
        type: u4
        doc: F3. Salted, over bytes 0 to 91 of this header. F6. Also the chain value after this batch.
    instances:
      len_batch:
        value: (96 + len_content + 4095) / 4096 * 4096
        doc: F16. Header, records and padding are whole blocks.
      is_possible:
        value: >-
          magic == [0x50, 0x48, 0x4a, 0x42] and len_header == 96 and first > 0
          and num_records > 0 and num_records <= 16384 and len_content % 8 == 0
          and len_content >= num_records * 48 and len_batch <= 1048576
          and epoch > 0 and reserved == 0
        doc: F14, F15.
  batch_content:
    instances:
      records:
        pos: 0
        type: record
        repeat: eos
        doc: F8. Only if the content's checksum is right; else each record is to be looked for.
  record:
    doc: F8. A record begins at a multiple of 8 in the content of its batch and vouches for itself.
    seq:
      - id: header
        type: record_header
        size: 48
      - id: body
        type: record_body
        size: header.len_body
      - id: padding
        size: (8 - header.len_body % 8) % 8
        doc: F15. Zeros up to the next multiple of 8.
  record_header:
    seq:
      - id: lsn
        type: u8
        doc: F7. Its place; the records of a batch count up from the batch's first LSN.
      - id: previous
        type: u8
        doc: F17. LSN of the record of the same domain before it; 0 if there is none.
      - id: domain
        size: 16
        doc: The domain it is about; all 0 for what concerns the whole journal.
      - id: type_number
        type: u2
        doc: F10. One of `record_type`, or that of a newer writer.
      - id: version
        type: u2
        doc: F10. Of the body; 1, or more for the types whose body changed; or that of an older or newer writer.
      - id: len_body
        type: u4
        valid: { max: 8144 }
        doc: F14. Without padding.
      - id: body_checksum
        type: u4
        doc: F3. Salted, over the 8 bytes of the LSN and the body.
      - id: checksum
        type: u4
        doc: F3. Salted, over bytes 0 to 43 of this header.
    instances:
      is_known:
        value: >-
          type_number >= 1 and type_number <= 37 and
          version == (type_number == 25 or type_number == 31 or type_number == 32 or
          type_number == 33 ? 4 :
          type_number == 8 or type_number == 10 or type_number == 13 or type_number == 21 ? 3 :
          type_number == 27 ? 2 : 1)
        doc: F10. What is not known is skipped, never guessed at.
      type:
        value: type_number
        enum: record_type
        if: type_number >= 1 and type_number <= 37
  record_body:
    instances:
      bytes:
        pos: 0
        size-eos: true
        doc: F10. The body as it stands; all that can be said of an unknown one.
      decoded:
        pos: 0
        type: decoded_body
        if: _parent.header.is_known
        doc: F9. Fails if the body is not exactly its fields; then this record alone is damaged.
  decoded_body:
    seq:
      - id: fields
        type:
          switch-on: _parent._parent.header.type
          cases:
            record_type::checkpoint_begun: checkpoint_begun
            record_type::checkpoint_ended: checkpoint_ended
            record_type::domain_added: domain_state
            record_type::domain_state: domain_state
            record_type::domain_removed: nothing
            record_type::definition_part: definition_part
            record_type::wanted_changed: wanted_changed
            record_type::job_begun: job_begun
            record_type::phase_entered: phase_entered
            record_type::effect_intended: effect_intended
            record_type::effect_finished: effect_finished
            record_type::qemu_observed: qemu_observed
            record_type::peer_heard: peer_heard
            record_type::peer_prepared: peer_prepared
            record_type::migration_granted: migration_granted
            record_type::migration_abandoned: migration_abandoned
            record_type::migration_committed: migration_committed
            record_type::migration_started: migration_named
            record_type::migration_aborted: migration_named
            record_type::outcome_learned: outcome_learned
            record_type::decided: decided
            record_type::operator_resolved: operator_resolved
            record_type::job_ended: job_ended
            record_type::migration_forgotten: migration_named
            record_type::migration_state: migration_state
            record_type::migration_histories: migration_histories
            record_type::sealed: nothing
            record_type::store_intended: store_intended
            record_type::store_read: store_read
            record_type::verdict_given: verdict_given
            record_type::job_phase_entered: job_phase_entered
            record_type::job_decided: job_decided
            record_type::job_state: job_state
            record_type::migration_settings: migration_settings
            record_type::settings_kept: settings_kept
            record_type::migration_disks: migration_disks
            record_type::guest_sent: guest_sent
      - id: excess
        size-eos: true
        valid: { expr: _.length == 0 }
        doc: F9. A body has exactly the bytes that its fields need.

  # F9: the bodies. A string is `text`; a list is `num_x` and `x`; an optional field is `has_x` and,
  # if that is set, `x`; a word is a u4 of its enum; a variant is `variant` and, if it has fields,
  # `fields`. All identities have 16 bytes.
  text:
    doc: F9. A string.
    seq:
      - id: len_value
        type: u8
      - id: value
        type: str
        size: len_value
  nothing:
    doc: A body without fields.
    seq: []

  checkpoint_begun:
    doc: F18.
    seq:
      - { id: records, type: u4, doc: How many records follow before the end. }
      - { id: num_openings, type: u8 }
      - { id: openings, type: opening, repeat: expr, repeat-expr: num_openings, doc: F19. }
  checkpoint_ended:
    doc: F18.
    seq:
      - { id: records, type: u4, doc: As in its begin. }
  definition_part:
    doc: F14. A part of at most 4096 bytes.
    seq:
      - { id: first, type: u8, doc: LSN of the first part; names the definition. }
      - { id: index, type: u2 }
      - { id: count, type: u2 }
      - { id: text, type: text }
  wanted_changed:
    seq:
      - { id: wanted, type: u4, enum: wanted_run_state, valid: { in-enum: true } }
      - { id: why, type: u4, enum: wanted_reason, valid: { in-enum: true } }
  job_begun:
    doc: Its LSN names the job.
    seq:
      - { id: kind, type: u4, enum: job_kind, valid: { in-enum: true } }
      - { id: has_migration, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: migration, type: migration_terms, if: 'has_migration == boolean::set' }
  phase_entered:
    seq:
      - { id: job, type: u8 }
      - { id: phase, type: u4, enum: phase, valid: { in-enum: true } }
  effect_intended:
    doc: Its LSN names the effect.
    seq:
      - { id: has_job, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: job, type: u8, if: 'has_job == boolean::set' }
      - { id: instance, type: instance }
      - { id: command, type: effect_command }
  effect_finished:
    seq:
      - { id: effect, type: u8 }
      - { id: result, type: effect_result }
  qemu_observed:
    seq:
      - { id: has_job, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: job, type: u8, if: 'has_job == boolean::set' }
      - { id: observed, type: observed }
  peer_heard:
    seq:
      - { id: migration, size: 16 }
      - { id: has_position, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: position, type: position, if: 'has_position == boolean::set' }
      - { id: answer, type: u4, enum: peer_answer, valid: { in-enum: true } }
  peer_prepared:
    seq:
      - { id: migration, size: 16 }
      - { id: nonce, size: 16 }
      - { id: position, type: position }
  migration_granted:
    seq:
      - { id: cookie, type: cookie }
  migration_abandoned:
    seq:
      - { id: migration, size: 16 }
      - { id: why, type: text }
      - { id: asked, type: u1, enum: boolean, valid: { in-enum: true } }
  migration_committed:
    seq:
      - { id: has_cookie, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: cookie, type: cookie, if: 'has_cookie == boolean::set' }
      - { id: migration, size: 16 }
  migration_named:
    doc: The body of `migration-started`, `migration-aborted` and `migration-forgotten`.
    seq:
      - { id: migration, size: 16 }
  outcome_learned:
    seq:
      - { id: migration, size: 16 }
      - { id: outcome, type: u4, enum: outcome, valid: { in-enum: true } }
      - { id: has_position, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: position, type: position, if: 'has_position == boolean::set' }
  decided:
    seq:
      - { id: job, type: u8 }
      - { id: rule, type: text }
      - { id: decision, type: u4, enum: decision, valid: { in-enum: true } }
      - { id: evidence, type: evidence }
      - { id: num_based_on, type: u8 }
      - { id: based_on, type: u8, repeat: expr, repeat-expr: num_based_on, doc: LSNs. }
  operator_resolved:
    seq:
      - { id: job, type: u8 }
      - { id: decision, type: u4, enum: decision, valid: { in-enum: true } }
      - { id: force, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: statement, type: text }
      - { id: uid, type: u4 }
  job_ended:
    seq:
      - { id: job, type: u8 }
      - { id: result, type: u4, enum: job_result, valid: { in-enum: true } }
      - { id: detail, type: text }

  store_intended:
    seq:
      - { id: migration, size: 16 }
      - { id: change, type: key_change }
      - { id: has_cookie, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: cookie, type: cookie, if: 'has_cookie == boolean::set' }
  store_read:
    seq:
      - { id: migration, size: 16 }
      - { id: key, type: key_value }
  verdict_given:
    seq:
      - { id: migration, size: 16 }
      - { id: outcome, type: u4, enum: outcome, valid: { in-enum: true } }
      - { id: by, type: u4, enum: verdict_by, valid: { in-enum: true } }
      - { id: has_uid, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: uid, type: u4, if: 'has_uid == boolean::set' }
  migration_settings:
    seq:
      - { id: job, type: u8 }
      - { id: time, type: u8, doc: Nanoseconds since 1970. }
      - { id: settings, type: settings }
      - { id: has_postcopy_after, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: postcopy_after, type: postcopy_after, if: 'has_postcopy_after == boolean::set' }
      - { id: has_deadline, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: deadline, type: u8, if: 'has_deadline == boolean::set', doc: Seconds. }
  settings_kept:
    seq:
      - { id: job, type: u8 }
      - { id: changed, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: settings, type: settings }
  migration_disks:
    seq:
      - { id: job, type: u8 }
      - { id: has_nbd, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: nbd, type: text, if: 'has_nbd == boolean::set' }
      - { id: sync, type: u4, enum: disk_sync, valid: { in-enum: true } }
      - { id: num_disks, type: u8 }
      - { id: disks, type: disk_copy, repeat: expr, repeat-expr: num_disks }
      - { id: settled, type: u1, enum: boolean, valid: { in-enum: true } }
  guest_sent:
    seq:
      - { id: is_here, type: u1, enum: boolean, valid: { in-enum: true } }

  # F9: the structures.
  disk_copy:
    seq:
      - { id: source, type: text }
      - { id: destination, type: text }
      - { id: size, type: u8, doc: Bytes. }
  opening:
    doc: F19.
    seq:
      - { id: epoch, type: u4 }
      - { id: opening, size: 16 }
      - { id: first, type: u8, doc: First LSN. }
  position:
    seq:
      - { id: journal, size: 16 }
      - { id: epoch, type: u4 }
      - { id: opening, size: 16 }
      - { id: lsn, type: u8 }
  instance:
    seq:
      - { id: boot, size: 16 }
      - { id: pid, type: u4 }
      - { id: start_time, type: u8 }
  claim:
    seq:
      - { id: journal, size: 16 }
      - { id: epoch, type: u4 }
      - { id: migration, size: 16 }
      - { id: role, type: u4, enum: role, valid: { in-enum: true } }
  cookie:
    seq:
      - { id: migration, size: 16 }
      - { id: nonce, size: 16 }
      - { id: granted, type: position }
      - { id: authority, type: u4, enum: authority, valid: { in-enum: true } }
      - { id: wanted, type: u4, enum: wanted_run_state, valid: { in-enum: true } }
  domain_state:
    seq:
      - { id: name, type: text }
      - { id: qmp, type: text }
      - { id: instance, type: instance }
      - { id: wanted, type: u4, enum: wanted_run_state, valid: { in-enum: true } }
      - { id: has_definition, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: definition, type: u8, if: 'has_definition == boolean::set' }
      - { id: has_claim, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: claim, type: claim, if: 'has_claim == boolean::set' }
      - { id: dead, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: damaged, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: has_last_job, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: last_job, type: ended_job, if: 'has_last_job == boolean::set' }
  ended_job:
    seq:
      - { id: job, type: u8 }
      - { id: kind, type: u4, enum: job_kind, valid: { in-enum: true } }
      - { id: has_migration, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: migration, size: 16, if: 'has_migration == boolean::set' }
      - { id: has_phase, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: phase, type: u4, enum: phase, valid: { in-enum: true }, if: 'has_phase == boolean::set' }
      - { id: result, type: u4, enum: job_result, valid: { in-enum: true } }
      - { id: detail, type: text }
  migration_terms:
    seq:
      - { id: migration, size: 16 }
      - { id: role, type: u4, enum: role, valid: { in-enum: true } }
      - { id: protocol, type: u4, enum: protocol, valid: { in-enum: true } }
      - { id: authority, type: u4, enum: authority, valid: { in-enum: true } }
      - { id: peer, type: text }
      - { id: peer_domain, type: text }
      - { id: uri, type: text }
      - { id: has_max_bandwidth, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: max_bandwidth, type: u8, if: 'has_max_bandwidth == boolean::set' }
      - { id: has_downtime_limit, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: downtime_limit, type: u8, if: 'has_downtime_limit == boolean::set' }
      - { id: postcopy, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: has_nonce, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: nonce, size: 16, if: 'has_nonce == boolean::set' }
      - { id: has_store, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: store, type: text, if: 'has_store == boolean::set' }
      - { id: has_in_doubt_limit, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: in_doubt_limit, type: u8, if: 'has_in_doubt_limit == boolean::set' }
  migration_state:
    seq:
      - { id: job, type: u8 }
      - { id: open, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: terms, type: migration_terms }
      - { id: phase, type: u4, enum: phase, valid: { in-enum: true } }
      - { id: migrate_intended, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: postcopy_intended, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: postcopy, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: source_touched, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: has_granted, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: granted, type: cookie, if: 'has_granted == boolean::set' }
      - { id: abandoned, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: cancel_asked, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: committed, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: started, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: aborted, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: has_outcome, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: outcome, type: u4, enum: outcome, valid: { in-enum: true }, if: 'has_outcome == boolean::set' }
      - { id: cont, type: u4, enum: cont_intent, valid: { in-enum: true } }
      - { id: cont_count, type: u4 }
      - { id: has_in_flight, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: in_flight, type: in_flight, if: 'has_in_flight == boolean::set' }
      - { id: has_peer_position, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: peer_position, type: position, if: 'has_peer_position == boolean::set' }
      - { id: peer_answer, type: u4, enum: peer_answer, valid: { in-enum: true } }
      - { id: has_last_rule, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: last_rule, type: text, if: 'has_last_rule == boolean::set' }
      - { id: has_key_intent, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: key_intent, type: key_change, if: 'has_key_intent == boolean::set' }
      - { id: has_licence, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: licence, type: cookie, if: 'has_licence == boolean::set' }
      - { id: has_key_read, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: key_read, type: key_value, if: 'has_key_read == boolean::set' }
      - { id: has_verdict, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: verdict, type: u4, enum: outcome, valid: { in-enum: true }, if: 'has_verdict == boolean::set' }
  job_phase_entered:
    seq:
      - { id: job, type: u8 }
      - { id: phase, type: u4, enum: job_phase, valid: { in-enum: true } }
      - { id: time, type: u8, doc: Nanoseconds since 1970. }
      - { id: has_cookie, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: cookie, type: text, if: 'has_cookie == boolean::set' }
      - { id: has_other_side, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: other_side, type: position, if: 'has_other_side == boolean::set' }
      - { id: recognised, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: listens, type: u1, enum: boolean, valid: { in-enum: true } }
  job_decided:
    seq:
      - { id: job, type: u8 }
      - { id: rule, type: text }
      - { id: decision, type: u4, enum: decision, valid: { in-enum: true } }
      - { id: evidence, type: job_evidence }
      - { id: num_based_on, type: u8 }
      - { id: based_on, type: u8, repeat: expr, repeat-expr: num_based_on, doc: LSNs. }
  job_evidence:
    seq:
      - { id: kind, type: u4, enum: job_kind, valid: { in-enum: true } }
      - { id: phase, type: u4, enum: job_phase, valid: { in-enum: true } }
      - { id: facts, type: job_facts }
      - { id: observed, type: observed }
      - { id: has_dump, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: dump, type: text, if: 'has_dump == boolean::set', doc: "QEMU's own word." }
      - { id: has_qemu_jobs, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: qemu_jobs, type: qemu_jobs_seen, if: 'has_qemu_jobs == boolean::set' }
      - { id: nodes, type: u4, enum: nodes_seen, valid: { in-enum: true } }
      - { id: has_claim, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: claim, type: claim, if: 'has_claim == boolean::set' }
      - { id: recovering, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: recognised, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: journal_damaged, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: wanted, type: u4, enum: wanted_run_state, valid: { in-enum: true } }
      - { id: peer, type: u4, enum: peer_answer, valid: { in-enum: true } }
  qemu_jobs_seen:
    doc: The optional list in `JobEvidence`.
    seq:
      - { id: num_value, type: u8 }
      - { id: value, type: qemu_job_seen, repeat: expr, repeat-expr: num_value }
  qemu_job_seen:
    seq:
      - { id: id, type: text }
      - { id: has_status, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: status, type: text, if: 'has_status == boolean::set', doc: "QEMU's own word." }
      - { id: has_error, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: error, type: text, if: 'has_error == boolean::set' }
  job_facts:
    seq:
      - { id: stream, type: u4, enum: effect_standing, valid: { in-enum: true } }
      - { id: main, type: u4, enum: effect_standing, valid: { in-enum: true } }
      - { id: end, type: u4, enum: effect_standing, valid: { in-enum: true } }
  job_state:
    seq:
      - { id: job, type: u8 }
      - { id: kind, type: u4, enum: job_kind, valid: { in-enum: true } }
      - { id: begun, type: u8, doc: Nanoseconds since 1970. }
      - { id: phase, type: u4, enum: job_phase, valid: { in-enum: true } }
      - { id: has_cookie, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: cookie, type: text, if: 'has_cookie == boolean::set' }
      - { id: has_other_side, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: other_side, type: position, if: 'has_other_side == boolean::set' }
      - { id: recognised, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: stream, type: effect_count }
      - { id: main, type: effect_count }
      - { id: end, type: effect_count }
      - { id: num_nodes, type: u8 }
      - { id: nodes, type: text, repeat: expr, repeat-expr: num_nodes }
      - { id: num_qemu_jobs, type: u8 }
      - { id: qemu_jobs, type: text, repeat: expr, repeat-expr: num_qemu_jobs }
      - { id: num_leftovers, type: u8 }
      - { id: leftovers, type: effect_command, repeat: expr, repeat-expr: num_leftovers }
      - { id: has_in_flight, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: in_flight, type: in_flight, if: 'has_in_flight == boolean::set' }
      - { id: has_last_rule, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: last_rule, type: text, if: 'has_last_rule == boolean::set' }
  effect_count:
    seq:
      - { id: done, type: u4 }
      - { id: unknown, type: u4 }
  in_flight:
    doc: The tuple in `MigrationState` and `JobState`.
    seq:
      - { id: effect, type: u8 }
      - { id: command, type: effect_command }
  observed:
    seq:
      - { id: process, type: u4, enum: process, valid: { in-enum: true } }
      - { id: has_instance, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: instance, type: instance, if: 'has_instance == boolean::set' }
      - { id: has_run_state, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: run_state, type: text, if: 'has_run_state == boolean::set', doc: "QEMU's own word." }
      - { id: has_migration, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: migration, type: text, if: 'has_migration == boolean::set', doc: "QEMU's own word." }
      - { id: claim, type: claim_seen }
  migration_histories:
    seq:
      - { id: job, type: u8 }
      - { id: nonce_known, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: num_histories, type: u8 }
      - { id: histories, type: migration_history, repeat: expr, repeat-expr: num_histories }
  migration_history:
    seq:
      - { id: open, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: later, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: resolved, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: phase, type: u4, enum: phase, valid: { in-enum: true } }
      - { id: facts, type: facts }
      - { id: source_touched, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: wanted, type: u4, enum: wanted_run_state, valid: { in-enum: true } }
  facts:
    seq:
      - { id: migrate_intended, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: postcopy, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: granted, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: abandoned, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: committed, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: started, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: aborted, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: has_outcome, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: outcome, type: u4, enum: outcome, valid: { in-enum: true }, if: 'has_outcome == boolean::set' }
      - { id: cont, type: u4, enum: cont_intent, valid: { in-enum: true } }
      - { id: proposed, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: has_verdict, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: verdict, type: u4, enum: outcome, valid: { in-enum: true }, if: 'has_verdict == boolean::set' }
  evidence:
    seq:
      - { id: role, type: u4, enum: role, valid: { in-enum: true } }
      - { id: protocol, type: u4, enum: protocol, valid: { in-enum: true } }
      - { id: authority, type: u4, enum: authority, valid: { in-enum: true } }
      - { id: phase, type: u4, enum: phase, valid: { in-enum: true } }
      - { id: facts, type: facts }
      - { id: observed, type: observed }
      - { id: has_claim, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: claim, type: claim, if: 'has_claim == boolean::set' }
      - { id: peer, type: u4, enum: peer_answer, valid: { in-enum: true } }
      - { id: watched, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: recovering, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: journal_damaged, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: wanted, type: u4, enum: wanted_run_state, valid: { in-enum: true } }
      - { id: store, type: u4, enum: store_answer, valid: { in-enum: true } }
      - { id: overdue, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: source_touched, type: u1, enum: boolean, valid: { in-enum: true } }

  # F9: the variants.
  settings:
    seq:
      - { id: num_capabilities, type: u8 }
      - { id: capabilities, type: capability, repeat: expr, repeat-expr: num_capabilities }
      - { id: num_parameters, type: u8 }
      - { id: parameters, type: parameter, repeat: expr, repeat-expr: num_parameters }
  capability:
    seq:
      - { id: name, type: text }
      - { id: state, type: u1, enum: boolean, valid: { in-enum: true } }
  parameter:
    seq:
      - { id: name, type: text }
      - { id: value, type: parameter_value }
  parameter_value:
    seq:
      - { id: variant, type: u4, enum: parameter_value_kind, valid: { in-enum: true } }
      - id: fields
        type:
          switch-on: variant
          cases:
            parameter_value_kind::bool: parameter_bool
            parameter_value_kind::number: number
            parameter_value_kind::text: text
  parameter_bool:
    seq:
      - { id: value, type: u1, enum: boolean, valid: { in-enum: true } }
  number:
    seq:
      - { id: value, type: u8 }
  postcopy_after:
    seq:
      - { id: variant, type: u4, enum: postcopy_after_kind, valid: { in-enum: true } }
      - id: fields
        type:
          switch-on: variant
          cases:
            postcopy_after_kind::seconds: number
            postcopy_after_kind::passes: number
  key_value:
    seq:
      - { id: variant, type: u4, enum: key_value_kind, valid: { in-enum: true } }
      - id: fields
        type:
          switch-on: variant
          cases:
            key_value_kind::committed: key_committed
  key_committed:
    seq:
      - { id: journal, size: 16 }
      - { id: nonce, size: 16 }
  key_change:
    seq:
      - { id: variant, type: u4, enum: key_change_kind, valid: { in-enum: true } }
      - id: fields
        type:
          switch-on: variant
          cases:
            key_change_kind::create: key_value
            key_change_kind::replace: key_replaced
  key_replaced:
    seq:
      - { id: expected, type: key_value }
      - { id: new, type: key_value }
  effect_command:
    seq:
      - { id: variant, type: u4, enum: effect_command_kind, valid: { in-enum: true } }
      - id: fields
        type:
          switch-on: variant
          cases:
            effect_command_kind::claim: claim
            effect_command_kind::set_capabilities: capabilities
            effect_command_kind::set_parameters: parameters
            effect_command_kind::migrate_incoming: address
            effect_command_kind::migrate: address
            effect_command_kind::migrate_recover: address
            effect_command_kind::migrate_resume: address
            effect_command_kind::monitor: monitor_command
  capabilities:
    seq:
      - { id: role, type: u4, enum: role, valid: { in-enum: true } }
      - { id: postcopy, type: u1, enum: boolean, valid: { in-enum: true } }
  parameters:
    seq:
      - { id: has_max_bandwidth, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: max_bandwidth, type: u8, if: 'has_max_bandwidth == boolean::set' }
      - { id: has_downtime_limit, type: u1, enum: boolean, valid: { in-enum: true } }
      - { id: downtime_limit, type: u8, if: 'has_downtime_limit == boolean::set' }
  address:
    seq:
      - { id: uri, type: text }
  monitor_command:
    seq:
      - { id: execute, type: text }
      - { id: arguments, type: text }
      - { id: redacted, type: u1, enum: boolean, valid: { in-enum: true } }
  effect_result:
    seq:
      - { id: variant, type: u4, enum: effect_result_kind, valid: { in-enum: true } }
      - id: fields
        type:
          switch-on: variant
          cases:
            effect_result_kind::refused: refusal
            effect_result_kind::not_sent: reason
            effect_result_kind::unknown: reason
  refusal:
    seq:
      - { id: error_class, -orig-id: class, type: text }
      - { id: description, type: text }
  reason:
    seq:
      - { id: why, type: text }
  claim_seen:
    seq:
      - { id: variant, type: u4, enum: claim_seen_kind, valid: { in-enum: true } }
      - id: fields
        type:
          switch-on: variant
          cases:
            claim_seen_kind::present: claim
            claim_seen_kind::foreign: text

# F9, F10: numbers keep their meaning; new ones are added at the end. Where FORMAT.md writes a hyphen
# or a space, the name here has an underscore.
enums:
  boolean:
    0: unset
    1: set
  record_type:
    1: checkpoint_begun
    2: checkpoint_ended
    3: domain_added
    4: domain_state
    5: domain_removed
    6: definition_part
    7: wanted_changed
    8: job_begun
    9: phase_entered
    10: effect_intended
    11: effect_finished
    12: qemu_observed
    13: peer_heard
    14: peer_prepared
    15: migration_granted
    16: migration_abandoned
    17: migration_committed
    18: migration_started
    19: migration_aborted
    20: outcome_learned
    21: decided
    22: operator_resolved
    23: job_ended
    24: migration_forgotten
    25: migration_state
    26: sealed
    27: migration_histories
    28: store_intended
    29: store_read
    30: verdict_given
    31: job_phase_entered
    32: job_decided
    33: job_state
    34: migration_settings
    35: settings_kept
    36: migration_disks
    37: guest_sent
  parameter_value_kind:
    0: bool
    1: number
    2: text
  postcopy_after_kind:
    0: seconds
    1: passes
  key_value_kind:
    0: committed
    1: started
    2: aborted
  key_change_kind:
    0: create
    1: replace
    2: delete
  store_answer:
    0: not_read
    1: unreachable
    2: absent
    3: committed
    4: foreign
    5: started
    6: aborted
    7: older
  verdict_by:
    0: command
    1: cont
    2: quit
  job_phase:
    0: begin
    1: prepare
    2: perform
    3: finish
    4: cancel
    5: begin3
    6: perform3
    7: perform3_done
    8: confirm3
    9: confirm3_cancelled
    10: finish3
  effect_standing:
    0: never
    1: unknown
    2: done
  nodes_seen:
    0: unread
    1: absent
    2: partly
    3: present
  disk_sync:
    0: full
    1: top
  effect_command_kind:
    0: claim
    1: unclaim
    2: set_capabilities
    3: set_parameters
    4: migrate_incoming
    5: migrate
    6: migrate_continue
    7: migrate_cancel
    8: cont
    9: stop
    10: kill
    11: start_postcopy
    12: migrate_recover
    13: migrate_resume
    14: migrate_pause
    15: monitor
  effect_result_kind:
    0: done
    1: refused
    2: not_sent
    3: unknown
  claim_seen_kind:
    0: unread
    1: absent
    2: present
    3: foreign
  job_kind:
    0: migration_out
    1: migration_in
    2: save
    3: dump
    4: snapshot
    5: start
    6: restore
    7: backup
    8: destroy
    9: suspend
    10: modify
    11: query
    12: abort
  role:
    0: source
    1: destination
  protocol:
    0: v2
    1: v3
  phase:
    0: begin3
    1: perform2
    2: perform3
    3: perform3_done
    4: confirm3
    5: confirm3_cancelled
    6: prepare
    7: finish2
    8: finish3
    9: postcopy_failed
    10: begin_resume
    11: perform_resume
    12: confirm_resume
    13: prepare_resume
    14: finish_resume
  authority:
    0: destination
    1: store
    2: source
    3: manager
  outcome:
    0: committed
    1: aborted
  wanted_run_state:
    0: running
    1: paused
  decision:
    0: kill
    1: resume
    2: confirm
    3: hold
  job_result:
    0: completed
    1: failed
    2: cancelled
    3: crashed
  process:
    0: alive
    1: mute
    2: dead
    3: other_instance
  peer_answer:
    0: not_asked
    1: unreachable
    2: amnesia
    3: no_such_migration
    4: performing
    5: granted
    6: granted_and_safe
    7: abandoned
    8: not_whole
    9: whole
    10: deciding
    11: started
    12: aborted
    13: split
    14: lost
    15: committed
  cont_intent:
    0: never
    1: not_sent
    2: refused
    3: unknown
    4: done
  wanted_reason:
    0: asked
    1: seen
    2: carried
