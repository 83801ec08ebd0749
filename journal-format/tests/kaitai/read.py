"""Reads a journal with the reader that Kaitai Struct generates from format.ksy.

Usage: read.py READER DIRECTORY... READER is the directory of the generated
phase_journal_segment.py. Prints for each directory one line of JSON that names it, and one for each
segment, batch, record and gap, and one for the end: what `phase-journal dump --json --headers`
prints, but for what is not on the disk as such (a domain's name, a record's job, the words for what
is wrong).

       read.py READER --unseen DIRECTORY... prints the words, variants, types and optional fields of
the format that no record in any of these journals has.

Made from FORMAT.md, whose rules are cited by their numbers, and independent of the crate: what is
read twice the same way is what the page says.
"""

import io
import json
import re
import struct
import sys
import uuid
import zlib
from types import SimpleNamespace
from enum import Enum
from pathlib import Path

MAGIC = b"PHJSEG\x1a\n"
VERSION = 2
BLOCK = 4096
HEADER = 96
RECORD = 48
BATCH_MAX = 1 << 20
SEGMENT_MAX = 1 << 30
NOBODY = bytes(16)


def masked(crc):
    """F3: a checksum as it is stored."""
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def crc(salt, *parts):
    """F3: the checksum of bytes of one segment."""
    value = zlib.crc32(salt)
    for part in parts:
        value = zlib.crc32(part, value)
    return masked(value)


class Damaged(Exception):
    """These bytes are not what they should be."""


class Format:
    """The generated reader, and its objects as values for JSON."""

    def __init__(self, reader):
        sys.path.insert(0, str(reader))
        # pylint: disable=import-error,import-outside-toplevel
        import kaitaistruct
        import phase_journal_segment

        self.runtime = kaitaistruct
        self.segment = phase_journal_segment.PhaseJournalSegment
        # What a reader meets in bytes that it cannot read.
        self.errors = (
            kaitaistruct.KaitaiStructError,
            EOFError,
            UnicodeDecodeError,
        )
        self.seen = set()

    def stream(self, data):
        """Bytes as the reader takes them."""
        return self.runtime.KaitaiStream(io.BytesIO(data))

    def word(self, word):
        """A word or the name of a variant or type. Of all words only phases are spelled with
        underscores (FORMAT.md, Words)."""
        self.seen.add((type(word).__name__, word.name))
        is_phase = isinstance(word, (self.segment.Phase, self.segment.JobPhase))
        return word.name if is_phase else word.name.replace("_", "-")

    def is_set(self, value):
        """A bool, or whether an optional field has a value."""
        return value == self.segment.Boolean.set

    def value(self, value):
        """Whatever a body has."""
        if isinstance(value, Enum):
            if isinstance(value, self.segment.Boolean):
                return self.is_set(value)
            return self.word(value)
        if isinstance(value, bytes):
            return str(uuid.UUID(bytes=value))
        if isinstance(value, list):
            return [self.value(element) for element in value]
        if isinstance(value, self.segment.InFlight):
            return [value.effect, self.value(value.command)]
        if isinstance(value, self.runtime.KaitaiStruct):
            return self.structure(value)
        return value

    def structure(self, structure):
        """A structure's fields, or what stands for it: a string's text, a variant's name."""
        fields = {
            name: value
            for name, value in vars(structure).items()
            if not name.startswith("_")
        }
        if "variant" in fields:
            name = self.word(fields["variant"])
            has_fields = fields.get("fields") is not None
            return {name: self.value(fields["fields"])} if has_fields else name
        if "value" in fields and "name" not in fields:
            # A string, or a list that may be absent.
            return self.value(fields["value"])
        told = {}
        for name, value in fields.items():
            if name.startswith("num_"):
                continue
            if isinstance(value, self.segment.Boolean):
                self.seen.add((f"{type(structure).__name__}.{name}", self.is_set(value)))
            if name.startswith("has_"):
                if self.is_set(value):
                    continue
                name, value = name.removeprefix("has_"), None
            # `class` is a word of Python.
            name = "class" if name == "error_class" else name
            told[name.replace("_", "-")] = self.value(value)
        return told

    def body(self, record):
        """F9: the fields of a record of a known type."""
        try:
            return self.value(record.body.decoded.fields)
        except self.errors as error:
            raise Damaged("body") from error

    def all_there_is(self):
        """Every word, variant and type; every bool that was met both ways, and every optional field
        with and without a value."""
        everything = set()
        for name, kind in vars(self.segment).items():
            if isinstance(kind, type) and issubclass(kind, Enum):
                if kind is not self.segment.Boolean:
                    everything |= {(name, word.name) for word in kind}
        for name, what in self.seen:
            if isinstance(what, bool):
                everything |= {(name, True), (name, False)}
        return everything


class Batch:
    """A batch whose header is whole and in its place."""

    def __init__(self, header, checksum):
        self.header = header
        self.checksum = checksum
        self.whole = True
        self.records = []
        self.lost = []

    @property
    def end(self):
        """Where it ends."""
        return self.header.offset + self.header.len_batch

    @property
    def last(self):
        """Its last LSN."""
        return self.header.first + self.header.num_records - 1


class Found:
    """F23: records of batches whose headers are lost, found one by one."""

    def __init__(self, header, end, last):
        self.header = header
        self.end = end
        self.last = last
        self.checksum = None
        self.records = []
        self.lost = []


class Elsewhere(Exception):
    """F13: a whole header of a batch that does not belong there."""


class Segment:
    """A segment file: its batches, what is damaged between them, and its end."""

    def __init__(self, form, path):
        self.form = form
        self.file = path.name
        self.number = int(path.stem)
        self.data = path.read_bytes()
        self.length = len(self.data)
        self.batches = []
        self.gaps = []
        self.torn = None
        self.corrupt = None
        # The bad stretch at the end, and the LSN that was expected there.
        self.bad_end = None
        self.why = self.read_header()
        if self.why is None:
            self.data = self.data[: self.header.len_segment - BLOCK]
            self.read_batches()

    def read_header(self):
        """F2, F24: what is wrong with the segment's header, if anything is."""
        why = self.parse_header(self.data)
        elsewhere = why is None and self.header.number != self.number
        if (why is not None or elsewhere) and self.length >= BLOCK:
            copied = self.data[-BLOCK:] + self.data[BLOCK:]
            found = self.parse_header(copied) is None and self.header.len_segment == self.length
            if found and (why is not None or self.header.number == self.number):
                why = None
            else:
                why = self.parse_header(self.data)
        if why is None and self.header.number != self.number:
            return "number"
        return why

    def parse_header(self, data):
        """F5, F15: what is wrong with the header that a file begins with."""
        try:
            self.root = self.form.segment(self.form.stream(data))
        except self.form.errors as error:
            return str(error)
        self.header = self.root.header
        if masked(zlib.crc32(data[: BLOCK - 4])) != self.header.checksum:
            return "checksum"
        return None

    def is_of_another_version(self):
        """F5: magic and version are looked at first."""
        version = struct.unpack("<I", self.data[8:12])[0] if self.length >= BLOCK else VERSION
        return self.why is not None and self.data[:8] == MAGIC and version != VERSION

    def candidate(self, place):
        """The batch at that place, whole or with damaged content (F3, F7, F14, F15)."""
        area = self.root.area
        area._io.seek(place - BLOCK)
        found = self.form.segment.Batch(place, area._io, area, self.root)
        if found.is_cut or found.header.magic != b"PHJB":
            raise Damaged("magic")
        header, salt = found.header, self.header.salt
        if crc(salt, self.data[place : place + HEADER - 4]) != header.checksum:
            raise Damaged("header checksum")
        if not header.is_possible or header.first + header.num_records >= 1 << 64:
            raise Damaged("header")
        if header.segment != self.header.number or header.offset != place:
            raise Elsewhere
        if place + header.len_batch > len(self.data):
            raise Damaged("cut off")
        if header.epoch != self.header.epoch:
            raise Elsewhere
        batch = Batch(header, header.checksum)
        begin = place + HEADER
        content = self.data[begin : begin + header.len_content]
        sound = crc(salt, content) == header.content_checksum
        batch.whole = sound
        self.read_records(batch, content)
        if sound and not batch.lost:
            # The plain way, without looking for records, must find the same ones.
            plain = [record.header.lsn for record in found.content.records]
            plain = plain[: header.num_records]
            assert plain == [record["lsn"] for record in batch.records], plain
        return batch

    def record_at(self, content, at):
        """F8: the record there, if a whole header begins there."""
        try:
            record = self.form.segment.Record(self.form.stream(content[at:]), None, self.root)
        except self.form.errors:
            return None
        checksum = crc(self.header.salt, content[at : at + RECORD - 4])
        return record if checksum == record.header.checksum else None

    def read_records(self, batch, content):
        """F8: every readable record, and the LSNs of those that are not."""
        expected, end = batch.header.first, batch.last + 1
        at = 0
        while at < len(content) and expected < end:
            record = self.record_at(content, at)
            if record is None or not expected <= record.header.lsn < end:
                at += 8
                continue
            header = record.header
            batch.lost.extend(range(expected, header.lsn))
            try:
                place = batch.header.offset + HEADER + at
                batch.records.append(self.told(batch, record, place))
            except Damaged:
                batch.lost.append(header.lsn)
            expected = header.lsn + 1
            at += RECORD + header.len_body + len(record.padding)
        batch.lost.extend(range(expected, end))

    def told(self, batch, record, place):
        """A record as it is printed (F9, F10)."""
        header, body = record.header, record.body.bytes
        checksum = crc(self.header.salt, struct.pack("<Q", header.lsn), body)
        if checksum != header.body_checksum or any(record.padding):
            raise Damaged("body")
        told = {
            "lsn": header.lsn,
            "previous": header.previous or None,
            "domain": None if header.domain == NOBODY else self.form.value(header.domain),
            "type-number": header.type_number,
            "version": header.version,
            "size": header.len_body,
            "epoch": batch.header.epoch,
            "boot": self.form.value(batch.header.boot),
            "time": batch.header.wall,
            "monotonic": batch.header.monotonic,
            "file": self.file,
            "offset": place,
        }
        if header.is_known:
            told["body"] = self.form.body(record)
            told["type"] = self.form.word(header.type)
        else:
            told["bytes"] = body.hex()
        return told

    def follows(self, batch, expected, chain, bad):
        """F6, F7: is that the next batch? Behind a bad stretch whose first header is gone only the
        order can be told; behind a damaged content the chain value goes on."""
        header = batch.header
        if bad is None:
            return header.first == expected and header.chain == chain
        damaged = bad[1]
        if damaged is None:
            return header.first > expected
        if header.first == damaged.last + 1:
            return header.chain == damaged.checksum
        return header.first > damaged.last

    def read_batches(self):
        """Reading a segment: F11, F12, F13."""
        expected, chain = self.header.first, self.header.checksum
        used = len(self.data)
        while used > BLOCK and not any(self.data[used - BLOCK : used]):
            used -= BLOCK if used % BLOCK == 0 else used % BLOCK
        # Where a bad stretch begins, the damaged batch whose header is whole there, and whether the
        # header there belongs elsewhere.
        bad = None
        at = BLOCK
        while at < used:
            batch, elsewhere = None, False
            try:
                batch = self.candidate(at)
            except Damaged:
                pass
            except Elsewhere:
                elsewhere = True
            next_one = batch is not None and self.follows(batch, expected, chain, bad)
            if next_one and batch.whole:
                if bad is not None:
                    self.close(bad, at, expected, batch.header.first)
                    bad = None
                self.batches.append(batch)
                expected, chain = batch.last + 1, batch.checksum
                at = batch.end
            elif bad is None and next_one:
                bad = (at, batch, False)
                at = batch.end
            else:
                if bad is None:
                    bad = (at, None, elsewhere or batch is not None)
                at += BLOCK
        self.bad_end = (bad, expected)
        self.settle_tail(bad, used)
        for batch in self.batches:
            self.lose(batch)

    def lose(self, batch):
        """The records of a batch that are lost."""
        for first, last in runs(batch.lost):
            self.gap(batch.header.offset, batch.end, first, last)

    def close(self, bad, until, expected, first):
        """F11: a whole batch lies behind a bad stretch, which therefore is damage."""
        at, damaged, _ = bad
        if damaged is not None:
            self.batches.append(damaged)
            at, expected = damaged.end, damaged.last + 1
        if first > expected:
            self.salvage(at, until, expected, first)

    def salvage(self, begin, until, first, before):
        """F23: the records of a stretch whose batches cannot be told."""
        found, at = {}, begin
        header = SimpleNamespace(
            first=first,
            offset=begin,
            epoch=self.header.epoch,
            boot=bytes(16),
            wall=0,
            monotonic=0,
        )
        if self.batches:
            last = self.batches[-1].header
            header.boot, header.wall, header.monotonic = last.boot, last.wall, last.monotonic
        batch = Found(header, until, before - 1)
        while at < until:
            head = self.data[at : at + RECORD]
            if len(head) == RECORD and crc(self.header.salt, head[:-4]) == word_of(head[-4:]):
                record = self.record_at(self.data[:until], at)
                if record is not None and first <= record.header.lsn < before:
                    try:
                        found.setdefault(record.header.lsn, self.told(batch, record, at))
                        at += RECORD + record.header.len_body + len(record.padding)
                        continue
                    except Damaged:
                        pass
            at += 8
        lost = [lsn for lsn in range(first, before) if lsn not in found]
        for low, high in runs(lost):
            self.gap(begin, until, low, high)
        if found:
            batch.records = [found[lsn] for lsn in sorted(found)]
            self.batches.append(batch)

    def close_end(self, before):
        """F20: the next segment says that what stands in the bad stretch was acknowledged."""
        bad, expected = self.bad_end
        if bad is None or not bad[0] < before.end <= len(self.data) or before.last < expected:
            return
        damaged = bad[1]
        if damaged is not None and damaged.last > before.last:
            return
        self.torn = self.corrupt = None
        self.close(bad, before.end, expected, before.last + 1)
        if damaged is not None:
            self.lose(damaged)

    def gap(self, at, until, first, last):
        """LSNs that are lost."""
        self.gaps.append(
            {"first": first, "last": last, "file": self.file, "at": at, "until": until}
        )

    def settle_tail(self, bad, used):
        """F12, F13: a bad stretch at the end."""
        if bad is None:
            return
        at, damaged, elsewhere = bad
        furthest = at + BATCH_MAX if damaged is None else damaged.end
        if used <= furthest and not elsewhere:
            self.torn = at
        else:
            self.corrupt = at

    def settle(self, following):
        """F20: what counts, by the header of the next segment. Gives the lines, the next LSN, and
        how it ends."""
        header = self.header
        cut_off = self.length < header.len_segment
        how = {"how": "clean"}
        if following is not None and following.has_before:
            if following.before.number == header.number:
                self.close_end(following.before)
        if cut_off or self.corrupt is not None:
            how = {"how": "damaged"}
        elif self.torn is not None:
            how = {"how": "torn", "file": self.file, "at": self.torn}
        before = None
        if following is not None and following.has_before:
            if following.before.number == header.number:
                before = following.before
        batches = self.batches
        if following is not None:
            batches = [batch for batch in batches if batch.last < following.first]
        end, chain, expected = BLOCK, header.checksum, header.first
        if batches:
            end, chain, expected = batches[-1].end, batches[-1].checksum, batches[-1].last + 1
        told_of = before is not None and before.end > 0 and (before.end == end or before.last == expected - 1)
        if told_of and chain not in (None, before.chain):
            self.gaps = []
            self.gap(0, self.length, header.first, before.last)
            return self.lines([]), before.last + 1, {"how": "damaged"}
        self.gaps = [gap for gap in self.gaps if gap["last"] < expected]
        if before is not None:
            last = following.first - 1
        elif following is None and how["how"] == "damaged":
            # Nobody can say what is lost: at most one record for each 48 bytes.
            last = expected - 1 + (header.len_segment - BLOCK - end) // RECORD
        else:
            last = expected - 1
        if last >= expected:
            until = header.len_segment - BLOCK if before is None else before.end
            self.gap(end, max(until, end), expected, last)
        elif following is not None:
            how = {"how": "clean"}
        return self.lines(batches), last + 1, how

    def lines(self, batches):
        """Batches, records and gaps, in the order of LSNs."""
        told = [batch for batch in batches if isinstance(batch, Batch)]
        lines = [(batch.header.first, 0, {"batch": self.told_batch(batch)}) for batch in told]
        lines += [(record["lsn"], 1, record) for batch in batches for record in batch.records]
        for gap in self.gaps:
            # A gap at the begin of a batch stands behind the batch's header.
            lines.append((gap["first"], 1, {"gap": gap}))
        return [line for _, _, line in sorted(lines, key=lambda line: line[:2])]

    def told_header(self):
        """The segment's header as it is printed."""
        if self.why is not None:
            return {"file": self.file, "length": self.length}
        header, before = self.header, None
        value = self.form.value
        if header.has_before:
            before = {
                "number": header.before.number,
                "end": header.before.end,
                "chain": header.before.chain,
                "last": header.before.last,
            }
        return {
            "file": self.file,
            "length": self.length,
            "version": header.version,
            "block-size": header.len_block,
            "journal": value(header.journal),
            "host": value(header.host),
            "number": header.number,
            "size": header.len_segment,
            "salt": header.salt.hex(),
            "first": header.first,
            "epoch": header.epoch,
            "opening": value(header.opening),
            "before": before,
            "checksum": header.checksum,
        }

    def told_batch(self, batch):
        """A batch's header as it is printed."""
        header = batch.header
        return {
            "file": self.file,
            "offset": header.offset,
            "first": header.first,
            "records": header.num_records,
            "length": header.len_content,
            "epoch": header.epoch,
            "chain": header.chain,
            "boot": self.form.value(header.boot),
            "time": header.wall,
            "monotonic": header.monotonic,
            "segment": header.segment,
            "content": header.content_checksum,
            "checksum": header.checksum,
        }


def word_of(data):
    """A checksum as it is stored."""
    return struct.unpack("<I", data)[0]


def runs(lsns):
    """Consecutive LSNs as ranges."""
    ranges = []
    for lsn in lsns:
        if ranges and ranges[-1][1] + 1 == lsn:
            ranges[-1][1] = lsn
        else:
            ranges.append([lsn, lsn])
    return ranges


def mark_foreign(segments):
    """F2: all segments name one journal: that which most of them name, of equals that of the
    oldest."""
    journals = [segment.header.journal for segment in segments if segment.why is None]
    ours = max(journals, key=journals.count, default=None)
    for segment in segments:
        if segment.why is None and segment.header.journal != ours:
            segment.why = "journal"


def lost_segments(lost, missing, expected, following):
    """F20: the gap over segments without a readable header, or that are not there."""
    first = 1 if expected is None else expected
    if following is not None:
        last = following.first - 1
    else:
        last = first - 1 + len(lost) * (SEGMENT_MAX // RECORD)
    if last < first or not (lost or missing):
        return None
    file, until = f"{missing:016}.seg", 0
    if lost:
        file, until = lost[0].file, lost[0].length
    return {"first": first, "last": last, "file": file, "at": 0, "until": until}


def read(form, directory):
    """Everything in a journal, as it is printed."""
    names = [path for path in directory.iterdir() if re.fullmatch(r"\d{16,}\.seg", path.name)]
    paths = sorted(names, key=lambda path: int(path.stem))
    segments = [Segment(form, path) for path in paths]
    mark_foreign(segments)
    how, expected, before = {"how": "clean"}, None, None
    numbers = [segment.number for segment in segments]
    has_all = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False
    is_not_read = has_all and all(segment.is_of_another_version() for segment in segments)
    while segments:
        count = 0
        while count < len(segments) and segments[count].why is not None:
            count += 1
        lost, segments = segments[:count], segments[count:]
        here = segments.pop(0) if segments else None
        # A missing segment matters only where one before it is there.
        missing = 0 if before is None else before + 1
        if here is None or here.number <= missing:
            missing = 0
        gap = lost_segments(lost, missing, expected, here and here.header)
        for index, segment in enumerate(lost):
            yield {"segment": segment.told_header()}
            if index == 0 and gap is not None:
                yield {"gap": gap}
        if gap is not None:
            if not lost:
                yield {"gap": gap}
            expected = gap["last"] + 1
        if here is None:
            how = {"how": "damaged"} if gap is not None else how
            how = {"how": "not-read"} if is_not_read else how
            break
        yield {"segment": here.told_header()}
        following = [other.header for other in segments if other.why is None]
        lines, expected, how = here.settle(following[0] if following else None)
        yield from lines
        before = here.number
    yield {"end": how}


def main(arguments):
    """Prints journals, or what is in none of them."""
    form = Format(Path(arguments[0]))
    if arguments[1] == "--unseen":
        for directory in arguments[2:]:
            for _ in read(form, Path(directory)):
                pass
        for name, what in sorted(form.all_there_is() - form.seen, key=str):
            print(name, what)
        return
    for directory in arguments[1:]:
        print(json.dumps({"directory": directory}))
        for line in read(form, Path(directory)):
            print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
