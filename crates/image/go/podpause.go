// Package podpause embeds pause, the infra (pause) container of a Kubernetes pod, in a runtime. The runtime
// starts pause from memory, without an image or a file.
//
// pause holds the namespaces that it is started in. As PID 1, it lets the kernel reap orphans. It ends with
// status 0 on SIGTERM or SIGINT.
//
//	program, err := podpause.Memfd() // once: all sandboxes share it
//	…
//	sandbox := podpause.Command(program)
//	sandbox.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
//	err = podpause.Start(sandbox) // returns when pause is ready
//	…
//	err = sandbox.Process.Signal(syscall.SIGTERM)
//	err = sandbox.Wait()
//
// The package needs only the standard library and a mounted /proc. Build tags select the program for each
// GOARCH. The program for arm needs ARMv7 or newer.
package podpause

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Constants from Linux: include/uapi/linux/memfd.h and fcntl.h, include/uapi/asm-generic/resource.h, and
// include/linux/sched.h.
const (
	memfdFlags   = 0x1 | 0x2 // MFD_CLOEXEC, MFD_ALLOW_SEALING
	memfdExec    = 0x10      // MFD_EXEC, since Linux 6.3
	addSeals     = 1033      // F_ADD_SEALS
	seals        = 0xf       // F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
	sealExec     = 0x20      // F_SEAL_EXEC, since Linux 6.3
	fileSize     = 1         // RLIMIT_FSIZE
	isExiting    = 4         // PF_EXITING
	flagsInStat  = 6         // the index of the flags among the fields after the name in /proc/PID/stat
	closeRange   = 436       // close_range(2), the same on all architectures
	pathOfMemory = "/proc/self/fd/3"
)

// Bytes returns a copy of the program: a static ELF executable for this GOARCH.
func Bytes() []byte {
	return append([]byte(nil), program...)
}

// Memfd returns a sealed memfd that contains the program. One memfd serves all sandboxes of a runtime, which
// then share its page. The memfd has FD_CLOEXEC.
//
// Memfd fails with EACCES if the sysctl vm.memfd_noexec is 2, which forbids creating executable memfds. In
// that case, write Bytes to a file. Memfd fails with EFBIG if RLIMIT_FSIZE is lower than the size of the
// program.
func Memfd() (*os.File, error) {
	// A write beyond the limit would raise SIGXFSZ, which crashes a Go program.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(fileSize, &limit); err == nil && uint64(limit.Cur) < uint64(len(program)) {
		return nil, os.NewSyscallError("RLIMIT_FSIZE", syscall.EFBIG)
	}
	name, err := syscall.BytePtrFromString("pause")
	if err != nil {
		return nil, err
	}
	create := func(flags uintptr) (uintptr, syscall.Errno) {
		fd, _, errno := syscall.Syscall(memfdCreate, uintptr(unsafe.Pointer(name)), flags, 0)
		return fd, errno
	}
	fd, errno := create(memfdFlags | memfdExec)
	if errno == syscall.EINVAL {
		// Before Linux 6.3, there is no MFD_EXEC, and every memfd can be executed.
		fd, errno = create(memfdFlags)
	}
	if errno != 0 {
		return nil, os.NewSyscallError("memfd_create", errno)
	}
	file := os.NewFile(fd, "pause")
	if _, err := file.Write(program); err != nil {
		file.Close()
		return nil, err
	}
	seal := func(seals uintptr) syscall.Errno {
		_, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, addSeals, seals)
		return errno
	}
	errno = seal(seals | sealExec)
	if errno == syscall.EINVAL {
		// Before Linux 6.3, there is no seal for the mode of the file.
		errno = seal(seals)
	}
	if errno != 0 {
		file.Close()
		return nil, os.NewSyscallError("F_ADD_SEALS", errno)
	}
	return file, nil
}

// Command returns a command that executes the program from this memfd, or from any other file that contains
// the program, with the name /pause and an empty environment.
//
// The caller sets SysProcAttr, which says which namespaces are created. The first of ExtraFiles is the
// program, so append to ExtraFiles and do not replace it. Start the command with Start.
func Command(program *os.File) *exec.Cmd {
	return &exec.Cmd{
		Path:       pathOfMemory,
		Args:       []string{"/pause"},
		Env:        []string{},
		ExtraFiles: []*os.File{program},
	}
}

// Start starts a command that Command returned, and returns when pause is ready: it holds the namespaces,
// reaps orphans and takes signals, and it has no inherited descriptor above 2. After an error, no process is
// left.
//
// Start passes the write end of a pipe to pause and waits for EOF. The last thing that pause does before it
// sleeps is to close inherited descriptors other than 0, 1 and 2. If another goroutine starts a process
// meanwhile, that process may hold a copy of the pipe's write end until its exec. Start then waits for that
// exec.
//
// Start fails with ENOSYS before Linux 5.9, and with the error of the filter if a seccomp filter of this
// process denies close_range(2): pause could not close the pipe.
func Start(command *exec.Cmd) error {
	// Closes nothing, because no process can have this descriptor.
	if _, _, errno := syscall.Syscall(closeRange, math.MaxInt32, math.MaxInt32, 0); errno != 0 {
		return os.NewSyscallError("close_range", errno)
	}
	ready, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	command.ExtraFiles = append(command.ExtraFiles, writer)
	err = command.Start()
	writer.Close()
	command.ExtraFiles = command.ExtraFiles[:len(command.ExtraFiles)-1]
	if err != nil {
		return err
	}
	if _, err := ready.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		command.Process.Kill()
		command.Wait()
		return fmt.Errorf("wait for pause: %w", err)
	}
	// EOF also occurs if the process has died.
	if isEnding(command.Process.Pid) {
		command.Process.Kill()
		command.Wait()
		if command.ProcessState == nil {
			return errors.New("pause ended at once")
		}
		return fmt.Errorf("pause ended at once: %v", command.ProcessState)
	}
	return nil
}

// isEnding reports whether the kernel has begun to end a process, or the process is gone.
func isEnding(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		// Another goroutine may have reaped the process. With the mount option hidepid, /proc may hide it.
		return syscall.Kill(pid, 0) == syscall.ESRCH
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) <= flagsInStat {
		return true
	}
	flags, err := strconv.ParseUint(fields[flagsInStat], 10, 64)
	return err != nil || flags&isExiting != 0
}
