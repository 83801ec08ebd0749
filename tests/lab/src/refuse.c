/* Runs a program whose disk fails: from a place in any file on, the kernel answers one system call
 * with an error. What the program writes before that place really is written.
 *
 * refuse SYSTEM_CALL BYTE ERRNO PROGRAM [ARGUMENT...]
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count < 5) {
        fprintf(stderr, "refuse SYSTEM_CALL BYTE ERRNO PROGRAM [ARGUMENT...]\n");
        return 127;
    }
    const unsigned int call = strcmp(arguments[1], "pwritev2") == 0 ? SYS_pwritev2 : SYS_pwrite64;
    const unsigned int byte = (unsigned int)strtoul(arguments[2], NULL, 10);
    const unsigned int error = (unsigned int)strtoul(arguments[3], NULL, 10);
    /* The fourth argument of both calls is the place in the file; its low half is at the lower
     * address, and no file here has 4 GiB. */
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, byte, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("refuse: seccomp");
        return 127;
    }
    execv(arguments[4], arguments + 4);
    perror(arguments[4]);
    return 127;
}
