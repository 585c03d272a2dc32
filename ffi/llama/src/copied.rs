//! A file that nobody can change between its check and its use.

use std::io;
use std::path::{Path, PathBuf};

/// Bytes under a path that llama.cpp can open: a sealed file in memory, where the system has such;
/// else the file that they were read from.
pub(crate) struct Copied {
    path: PathBuf,
    #[cfg(target_os = "linux")]
    _file: std::fs::File,
}

impl Copied {
    /// fails: too little memory
    #[cfg(target_os = "linux")]
    pub(crate) fn of(_: &Path, bytes: &[u8]) -> io::Result<Self> {
        use std::io::Write;
        use std::os::fd::AsRawFd;

        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = std::fs::File::from(memfd_create("translora-adapter", flags)?);
        file.write_all(bytes)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        Ok(Self {
            path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            _file: file,
        })
    }

    /// fails: never
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of(file: &Path, _: &[u8]) -> io::Result<Self> {
        Ok(Self {
            path: file.to_owned(),
        })
    }

    /// Where it can be opened as long as this lives.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_checked_cannot_change() {
        let copied = Copied::of(Path::new("x"), b"checked").expect("memory");
        assert_eq!(fs::read(copied.path()).expect("readable"), b"checked");
        let writable = fs::OpenOptions::new().write(true).open(copied.path());
        assert!(writable.and_then(|mut file| file.write(b"x")).is_err());
    }
}
