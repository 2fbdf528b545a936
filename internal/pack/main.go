// Command pack writes a module of this repository, as it is in a commit, into a module proxy in the
// file system, as proxy.golang.org would serve it:
//
//	pack REPOSITORY COMMIT DIRECTORY MODULE VERSION PROXY
//
// DIRECTORY is the module's, below REPOSITORY; "" is the repository's own.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	if len(os.Args) != 7 {
		fmt.Fprintln(os.Stderr, "usage: pack REPOSITORY COMMIT DIRECTORY MODULE VERSION PROXY")
		os.Exit(2)
	}
	a := os.Args[1:]
	if err := pack(a[0], a[1], a[2], module.Version{Path: a[3], Version: a[4]}, a[5]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(repository, commit, directory string, m module.Version, proxy string) error {
	if err := module.Check(m.Path, m.Version); err != nil {
		return err
	}
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return err
	}
	mod, err := exec.Command("git", "-C", repository, "show",
		commit+":"+path.Join(directory, "go.mod")).Output()
	if err != nil {
		return fmt.Errorf("%s has no go.mod in %s: %w", commit, directory, err)
	}
	var archive bytes.Buffer
	// The go command makes its zips with the same package, so that go.sum's hashes are right.
	if err := zip.CreateFromVCS(&archive, m, repository, commit, directory); err != nil {
		return err
	}
	versions := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(versions, 0o777); err != nil {
		return err
	}
	write := func(name string, data []byte) error {
		return os.WriteFile(filepath.Join(versions, name), data, 0o666)
	}
	return errors.Join(
		write("list", []byte(m.Version+"\n")),
		write(m.Version+".info", fmt.Appendf(nil, "{%q: %q}\n", "Version", m.Version)),
		write(m.Version+".mod", mod),
		write(m.Version+".zip", archive.Bytes()),
	)
}
