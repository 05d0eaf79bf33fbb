/* A runtime in C that carries pause inside itself, and starts a pod's sandbox from memory.
 *
 *     cargo run -p podpause-image -- --out dist
 *     cc -Wall -Werror -Idist examples/embed.c -o embed && ./embed
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pause.h" /* PAUSE_VERSION, and pause_elf for the architecture of the compiler */
#define EXECUTABLE 0x10 /* MFD_EXEC, which Linux 6.3 and newer know */

static void check(int is_right, const char *what)
{
    if (!is_right) {
        perror(what);
        exit(1);
    }
}

int main(void)
{
    /* One memfd serves all pods, which share its page. Sealed, nobody can change it any more. */
    int program = memfd_create("pause", MFD_CLOEXEC | MFD_ALLOW_SEALING | EXECUTABLE);
    if (program < 0 && errno == EINVAL)
        program = memfd_create("pause", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    check(program >= 0, "memfd_create");
    check(write(program, pause_elf, sizeof pause_elf) == sizeof pause_elf, "memfd");
    int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    check(fcntl(program, F_ADD_SEALS, seals) == 0, "seal");

    int ready[2];
    check(pipe(ready) == 0, "pipe");
    check(unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC) == 0, "unshare");
    pid_t pod = fork();
    if (pod == 0) {
        fexecve(program, (char *[]){"/pause", NULL}, (char *[]){NULL});
        _exit(127);
    }
    close(ready[1]);

    /* The last thing that pause does before it sleeps is to close what it inherits. Then read(2) returns EOF. */
    char byte;
    check(pod > 0 && read(ready[0], &byte, 1) == 0, "wait for pause");
    printf("pause %s holds the namespaces of process %d\n", PAUSE_VERSION, pod);

    int status;
    kill(pod, SIGTERM);
    waitpid(pod, &status, 0);
    printf("it ended with status %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
