//! What a process that works on foreign files may still do: read its inputs, write into one folder,
//! and nothing with the network or other processes.

use std::path::Path;

/// What is in force, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Of files and signals: `landlock`, `landlock in part`, or why not.
    pub files: String,
    /// Of system calls: `seccomp`, or why not.
    pub calls: String,
}

/// Let this thread, and those that it starts from now on, read below `read` and write below `write`,
/// besides the system's libraries and devices without memory, and open no socket, start no program
/// and trace nobody. What the kernel has not is left out.
///
/// source: landlock(7), seccomp(2)
#[cfg(target_os = "linux")]
pub fn confine<P: AsRef<Path>>(read: &[P], write: &[P]) -> InForce {
    use linux::{calls, files};
    // The filter of calls comes last: it would refuse nothing that the other needs, and says so.
    let files = files(read, write).unwrap_or_else(|error| format!("none: {error}"));
    let calls = match calls() {
        Ok(()) => "seccomp".into(),
        Err(error) => format!("none: {error}"),
    };
    InForce { files, calls }
}

/// See landlock(7) and seccomp(2), which other systems do not have.
#[cfg(not(target_os = "linux"))]
pub fn confine<P: AsRef<Path>>(_: &[P], _: &[P]) -> InForce {
    InForce {
        files: "none: this system has no Landlock".into(),
        calls: "none: this system has no seccomp".into(),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::path::Path;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
        RulesetStatus, Scope, path_beneath_rules,
    };
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

    /// The newest rules that are wished for; an older kernel has fewer.
    const NEWEST: ABI = ABI::V6;
    /// Libraries, time zones, and what the system says of itself.
    const SYSTEM: [&str; 8] = [
        "/lib",
        "/lib64",
        "/usr",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/nix/store",
        "/proc",
        "/sys",
    ];
    /// Devices that anybody may use.
    const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"];

    pub fn files<P: AsRef<Path>>(read: &[P], write: &[P]) -> Result<String, RulesetError> {
        let all = AccessFs::from_all(NEWEST);
        let inputs = read.iter().map(AsRef::as_ref);
        let readable = inputs.chain(SYSTEM.iter().map(Path::new));
        let devices = AccessFs::ReadFile | AccessFs::WriteFile;
        let own = ["/proc/self/oom_score_adj"];
        let status = Ruleset::default()
            .handle_access(all)?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(readable, AccessFs::from_read(NEWEST)))?
            .add_rules(path_beneath_rules(DEVICES.iter().chain(&own), devices))?
            .add_rules(path_beneath_rules(write, all))?
            .restrict_self()?;
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced => "landlock".into(),
            RulesetStatus::PartiallyEnforced => "landlock in part".into(),
            RulesetStatus::NotEnforced => "none: this kernel has no Landlock".into(),
        })
    }

    /// Calls that no work on files needs. They fail with "not permitted".
    const REFUSED: [i64; 33] = [
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_open_by_handle_at,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
    ];

    pub fn calls() -> Result<(), Box<dyn std::error::Error>> {
        let rules: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let arch = std::env::consts::ARCH.try_into()?;
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
        let program: BpfProgram = filter.try_into()?;
        Ok(apply_filter(&program)?)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::io::{self, ErrorKind};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::confine;

    /// What a try came to.
    type Came = Result<(), ErrorKind>;

    fn came<T>(result: io::Result<T>) -> Came {
        result.map(drop).map_err(|error| error.kind())
    }

    /// What is tried, whether it is a call and no file, and what it came to.
    fn tried(folders: [&Path; 3], address: SocketAddr) -> Vec<(&'static str, bool, Came)> {
        let [inside, outside, out] = folders;
        let (input, new) = (inside.join("file"), out.join("new"));
        vec![
            ("read an input", false, came(fs::read(&input))),
            ("write an output", false, came(fs::write(&new, "y"))),
            ("name it", false, came(fs::rename(&new, out.join("n")))),
            ("read another", false, came(fs::read(outside.join("file")))),
            ("follow a link", false, came(fs::read(inside.join("link")))),
            ("list a folder", false, came(fs::read_dir(outside))),
            ("write an input", false, came(fs::write(&input, "y"))),
            (
                "write elsewhere",
                false,
                came(fs::write(outside.join("a"), "y")),
            ),
            ("remove an input", false, came(fs::remove_file(&input))),
            ("read of users", false, came(fs::read("/etc/passwd"))),
            ("connect", true, came(TcpStream::connect(address))),
            ("send", true, came(UdpSocket::bind("127.0.0.1:0"))),
            (
                "start a program",
                true,
                came(Command::new("/bin/true").status()),
            ),
        ]
    }

    fn folders(all: &Path) -> [PathBuf; 3] {
        let folders = ["in", "other", "out"].map(|name| all.join(name));
        for folder in &folders {
            fs::create_dir_all(folder).expect("a new folder");
            fs::write(folder.join("file"), "x").expect("there is room");
        }
        let [inside, outside, _] = &folders;
        std::os::unix::fs::symlink(outside.join("file"), inside.join("link")).expect("a link");
        folders
    }

    /// A thread behind its sandbox, and one that it starts; the others go on as they were.
    #[test]
    fn a_confined_thread_reaches_its_inputs_and_nothing_else() {
        let all = std::env::temp_dir().join(format!("translora-sandbox-{}", std::process::id()));
        let [inside, outside, out] = folders(&all);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let confined = || {
            let force = confine(&[&inside], &[&out]);
            let own = tried([&inside, &outside, &out], address);
            let started = std::thread::spawn(move || came(TcpStream::connect(address)));
            (force, own, started.join().unwrap())
        };
        let (force, own, started) =
            std::thread::scope(|scope| scope.spawn(confined).join().unwrap());
        for (what, is_call, came) in own {
            let word = if is_call { &force.calls } else { &force.files };
            if ["read an input", "write an output", "name it"].contains(&what) {
                assert_eq!(came, Ok(()), "{what}");
            } else if word.starts_with("none") {
                eprintln!("SKIPPED: {what}: {word}");
            } else {
                assert_eq!(came, Err(ErrorKind::PermissionDenied), "{what}");
            }
        }
        if !force.calls.starts_with("none") {
            assert_eq!(started, Err(ErrorKind::PermissionDenied));
        }
        assert!(fs::read(outside.join("file")).is_ok() && TcpStream::connect(address).is_ok());
        fs::remove_dir_all(&all).unwrap();
    }
}
