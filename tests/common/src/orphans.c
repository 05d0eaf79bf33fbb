/* Makes processes that lose their parent, and ends when all of them have ended.
 *
 *     orphans ordinary|traced COUNT
 *
 * Each orphan waits until the first process of its PID namespace has adopted it, and ends. A traced one
 * first asks to be traced by that new parent. Prints how many did so.
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
			/* Dies at once, which makes its child an orphan. */
			pid_t child = fork();

			if (child == 0)
				orphan(traced, ends[1]);
			_exit(child < 0);
		}
		if (waitpid(parent, NULL, 0) != parent)
			return 1;
	}
	close(ends[1]);
	/* The end of the pipe: no orphan has it open any more. */
	while (read(ends[0], &byte, 1) == 1)
		succeeded++;
	printf("%d\n", succeeded);
	return 0;
}
