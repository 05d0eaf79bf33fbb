// Package podpause carries pause, the infra (pause) container of a Kubernetes pod, inside a runtime: it
// starts it from memory, without any image or file.
//
// pause holds the namespaces that it is started in. As PID 1 it has the kernel reap orphans. It ends with
// status 0 on SIGTERM or SIGINT.
//
//	program, err := podpause.Memfd() // once: all sandboxes share it
//	…
//	sandbox := podpause.Command(program)
//	sandbox.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
//	err = podpause.Start(sandbox) // returns when pause holds
//	…
//	err = sandbox.Process.Signal(syscall.SIGTERM)
//	err = sandbox.Wait()
//
// It needs the standard library only, and a /proc. The program for each GOARCH is chosen by build tags;
// that for arm is for ARMv7 and newer.
package podpause

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Linux include/uapi/linux/memfd.h, fcntl.h, resource.h, and include/linux/sched.h.
const (
	memfdFlags   = 0x1 | 0x2 // MFD_CLOEXEC, MFD_ALLOW_SEALING
	memfdExec    = 0x10      // MFD_EXEC, which Linux 6.3 and newer know
	addSeals     = 1033      // F_ADD_SEALS
	seals        = 0xf       // F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
	fileSize     = 1         // RLIMIT_FSIZE
	isExiting    = 4         // PF_EXITING
	flagsInStat  = 6         // the flags in /proc/PID/stat, counted from behind the name
	pathOfMemory = "/proc/self/fd/3"
)

// Bytes returns a copy of the program: a static ELF executable for this GOARCH.
func Bytes() []byte {
	return append([]byte(nil), program...)
}

// Memfd returns a sealed memfd that has the program. One serves all sandboxes of a runtime, which then
// share its page. It is closed on exec.
//
// It fails with EACCES where the sysctl vm.memfd_noexec is 2, so that no memfd can be executed: write
// Bytes to a file there. It fails with EFBIG where RLIMIT_FSIZE is lower than the size of the program.
func Memfd() (*os.File, error) {
	// A write beyond the limit would raise SIGXFSZ, which ends a Go program.
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
	if _, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, addSeals, seals); errno != 0 {
		file.Close()
		return nil, os.NewSyscallError("F_ADD_SEALS", errno)
	}
	return file, nil
}

// Command returns a command that executes the program from this memfd, or from any file that has it,
// with the name /pause and an empty environment. Its SysProcAttr says which namespaces it makes, and is
// for the caller to set. Of ExtraFiles, the first is taken. Start it by Start.
func Command(program *os.File) *exec.Cmd {
	return &exec.Cmd{
		Path:       pathOfMemory,
		Args:       []string{"/pause"},
		Env:        []string{},
		ExtraFiles: []*os.File{program},
	}
}

// Start starts a command of Command, and returns when pause holds: it reaps, it takes signals, and no
// descriptor of the caller is open in it. On an error no process is left.
//
// pause closes what it inherits as the last thing before it sleeps. A process that another goroutine
// starts meanwhile may have a copy of the same pipe until it is executed: Start then waits for that.
func Start(command *exec.Cmd) error {
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
	// The pipe of a process that has died has come to its end, too.
	if isEnding(command.Process.Pid) {
		command.Process.Kill()
		command.Wait()
		return fmt.Errorf("pause ended at once: %v", command.ProcessState)
	}
	return nil
}

// isEnding says whether the kernel has begun to end a process, as far as /proc can tell.
func isEnding(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) <= flagsInStat {
		return true
	}
	flags, err := strconv.ParseUint(fields[flagsInStat], 10, 64)
	return err != nil || flags&isExiting != 0
}
