# The laboratory's guest: a boot sector that counts.
#
# At each timer tick it checks that every page of its working set still holds the number before,
# writes the next one there, and prints it to COM1 as 8 hex digits and a newline. Between ticks it
# halts. Nothing else of the machine is used, no BIOS call either, so that what a migration must
# carry is memory, one CPU, timer, PIC and UART.
#
# What the serial log proves: a first line `boot` at each start from nothing; numbers from 1 on
# without gap or repeat while memory survives; `memory lost` if a page was not what it must be.
#
# Symbols set from outside (as --defsym):
#   DIRTY_PAGES   pages of 4 KiB written at each tick, 1 to 128 (from 0x10000 to 0x8ffff)
#   PIT_DIVISOR   timer period in units of 1/1193182 s
#   PACED         1: one tick per byte printed, so that almost every moment is within a line; 0: not
#
# QEMU before 9.0 loses memory when a guest under TCG is migrated in more than one pass: taking
# over the dirty bitmap leaves the TLB's fast path open, and a write through it is not seen (fixed by
# "physmem: Fix migration dirty bitmap coherency with TCG memory access"). A loss of QEMU's own would
# hide one that a test is about, so this guest writes nothing twice without a TLB flush between:
# the number is counted in a register, calls link through %di and %si in place of a stack, interrupts
# come only at a halt, where the frame on the stack is always the same, and each page is
# written once per tick, right after a flush.

        .code16
        .text
        .globl  _start

        .set    COM1, 0x3f8
        .set    FIRST_SEGMENT, 0x1000   # the working set begins at 0x10000
        .set    PAGE_SEGMENTS, 0x100    # 4 KiB in units of 16 bytes
        .set    CR0_WP, 0x10000

# Goes to a routine that returns by `jmp *%di` (or `%si`).
        .macro  link routine, register
        movw    $9f, %\register
        jmp     \routine
9:
        .endm

_start:
        ljmp    $0, $begin
begin:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp

        # UART: no interrupts, 115200 baud, 8n1, no FIFO.
        movw    $COM1+1, %dx
        outb    %al, %dx
        movw    $COM1+3, %dx
        movb    $0x80, %al
        outb    %al, %dx
        movw    $COM1, %dx
        movb    $1, %al
        outb    %al, %dx
        incw    %dx
        movb    $0, %al
        outb    %al, %dx
        movw    $COM1+3, %dx
        movb    $3, %al
        outb    %al, %dx
        movw    $COM1+2, %dx
        movb    $0, %al
        outb    %al, %dx

        # Timer interrupt to our own handler, every other interrupt masked.
        movw    $timer, 0x08*4
        movw    $0, 0x08*4+2
        movb    $0xfe, %al
        outb    %al, $0x21
        movb    $0xff, %al
        outb    %al, $0xa1
        movb    $0x34, %al              # channel 0, rate generator
        outb    %al, $0x43
        movb    $(PIT_DIVISOR & 0xff), %al
        outb    %al, $0x40
        movb    $(PIT_DIVISOR >> 8), %al
        outb    %al, $0x40

        xorl    %ebp, %ebp              # the number
        link    write_pages, di
        movw    $boot_text, %bx
        link    print_text, di

count:
        link    wait_tick, si
        movw    $FIRST_SEGMENT, %ax
        movw    $DIRTY_PAGES, %cx
1:      movw    %ax, %es
        cmpl    %ebp, %es:0
        jne     memory_lost
        addw    $PAGE_SEGMENTS, %ax
        loop    1b
        incl    %ebp
        link    write_pages, di
        link    print_number, di
        jmp     count

memory_lost:
        movw    $lost_text, %bx
        link    print_text, di
1:      hlt                             # interrupts are off
        jmp     1b

# Writes %ebp into each page of the working set. Returns through %di.
write_pages:
        movl    %cr0, %eax              # a changed WP flushes the TLB; it means nothing without paging
        xorl    $CR0_WP, %eax
        movl    %eax, %cr0
        movw    $FIRST_SEGMENT, %ax
        movw    $DIRTY_PAGES, %cx
1:      movw    %ax, %es
        movl    %ebp, %es:0
        addw    $PAGE_SEGMENTS, %ax
        loop    1b
        jmp     *%di

# Halts until the next timer interrupt; no other one is let through. Returns through %si.
wait_tick:
        sti
        hlt
        cli
        jmp     *%si

# Prints %ebp as 8 hex digits and a newline. Returns through %di.
print_number:
        movw    $8, %cx
1:      roll    $4, %ebp                # eight times four bits: as before at the end
        movl    %ebp, %eax
        andb    $0x0f, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     2f
        addb    $'A'-'9'-1, %al
2:      link    print_byte, si
        loop    1b
        movb    $'\n', %al
        link    print_byte, si
        jmp     *%di

# Prints %al. Changes %ax and %dx. Returns through %si.
print_byte:
        .if     PACED
        sti
        hlt
        cli
        .endif
        movb    %al, %ah
        movw    $COM1+5, %dx
1:      inb     %dx, %al
        testb   $0x20, %al              # transmitter can take a byte
        jz      1b
        movw    $COM1, %dx
        movb    %ah, %al
        outb    %al, %dx
        jmp     *%si

# Prints the text at %bx up to its zero byte. Returns through %di.
print_text:
        movb    (%bx), %al
        incw    %bx
        testb   %al, %al
        jz      1f
        link    print_byte, si
        jmp     print_text
1:      jmp     *%di

timer:
        pushw   %ax
        movb    $0x20, %al
        outb    %al, $0x20
        popw    %ax
        iretw

boot_text:
        .asciz  "boot\n"
lost_text:
        .asciz  "memory lost\n"

        .org    510
        .word   0xaa55
