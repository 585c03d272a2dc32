/// Close every file beyond the three standard streams that this process was started with.
///
/// A host that serves may have sockets open that are inherited by what it starts: a connection that
/// it closes would then stay open as long as a worker lives. To be called first in `main`, before
/// anything here has opened a file of its own.
pub fn close_inherited_files() {
    // Linux and macOS list the open files of a process here. The list is whole before any is
    // closed; the file of the list itself is closed by then, and closing it again is an error that
    // is ignored.
    let Ok(entries) = std::fs::read_dir("/dev/fd") else {
        return;
    };
    let files: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for file in files.into_iter().filter(|file| *file > 2) {
        // SAFETY: by this function's rule nothing in this process owns the file yet.
        unsafe { libc::close(file) };
    }
}
