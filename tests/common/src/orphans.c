/* Makes orphans, and exits when all of them have exited.
 *
 *     orphans ordinary|traced COUNT
 *
 * Each orphan waits until PID 1 of its PID namespace has adopted it, and exits. A traced orphan asks that
 * new parent to trace it before it exits. Prints how many orphans succeeded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void orphan(int traced, int done)
{
	while (getppid() != 1)
		usleep(1000);
	if (!traced || ptrace(PTRACE_TRACEME, 0, 0, 0) == 0)
		(void)!write(done, "", 1);
	_exit(0);
}

int main(int argc, char **argv)
{
	int ends[2], succeeded = 0, traced = argc == 3 && !strcmp(argv[1], "traced");
	char byte;

	if (argc != 3 || pipe(ends))
		return 2;
	for (int left = atoi(argv[2]); left > 0; left--) {
		pid_t parent = fork();

		if (parent < 0)
			return 1;
		if (parent == 0) {
			/* Exits at once, which makes its child an orphan. */
			pid_t child = fork();

			if (child == 0)
				orphan(traced, ends[1]);
			_exit(child < 0);
		}
		if (waitpid(parent, NULL, 0) != parent)
			return 1;
	}
	close(ends[1]);
	/* EOF means that all orphans have closed the pipe. */
	while (read(ends[0], &byte, 1) == 1)
		succeeded++;
	printf("%d\n", succeeded);
	return 0;
}
