//! Files that are written whole or not at all, and opened only if they are regular files.
//!
//! Every output of Octofold goes through [`write_whole`]. It writes a temporary file in the folder of the output, syncs it, and renames it. The name of
//! the temporary file cannot be guessed, and the file is created exclusively, so a link that somebody put there is never followed. An error or a
//! signal (see [`remove_unfinished`]) leaves the old file as it was and nothing else. What a killed process left is removed by the next writer in the same
//! folder: the name of the temporary file has the process's id and start time, and the process keeps the file locked while it lives.
//!
//! Every input goes through [`open_regular`], because opening a FIFO waits for a writer, and through a limit, because a file may be larger than memory.

use std::fs::{File, FileType, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the names of temporary files begin and end with.
const PREFIX: &str = ".octofold-";
const SUFFIX: &str = ".tmp";

/// A chain of more symbolic links is taken for a circle, as the system does.
const MAX_LINKS: usize = 40;

/// The temporary files that this process is writing.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary file, which is removed unless it becomes the output.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Creates a file in `folder` and locks it.
    fn new(folder: &Path) -> io::Result<Self> {
        let (process, start) = (std::process::id(), start_time("self").unwrap_or(0));
        loop {
            // Each state is seeded by the system's random numbers.
            let random = RandomState::new().hash_one(process);
            let path = folder.join(format!("{PREFIX}{process}-{start}-{random:016x}{SUFFIX}"));
            let mut unfinished = unfinished();
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    unfinished.push(path.clone());
                    drop(unfinished);
                    // Not every file system has locks; the id and start time of the process are enough there.
                    let _ = file.try_lock();
                    return Ok(Self { path, file });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the file the name of the output.
    fn rename(self, target: &Path) -> io::Result<()> {
        let mut unfinished = unfinished();
        std::fs::rename(&self.path, target)?;
        unfinished.retain(|path| *path != self.path);
        // The new name is on the disk when the folder is. Some systems cannot sync a folder; the file is whole there, too.
        #[cfg(unix)]
        if let Ok(folder) = File::open(folder_of(target)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let mut unfinished = unfinished();
        let count = unfinished.len();
        unfinished.retain(|path| *path != self.path);
        if unfinished.len() < count {
            // The error that brought us here is the one to report.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the temporary files that this process is writing, and lets no writer finish or begin. A program calls it when a signal ends it; it does not
/// return before the process ends in another thread's way, so `exit` must end the process.
pub fn remove_unfinished(exit: impl FnOnce()) {
    let unfinished = unfinished();
    for path in unfinished.iter() {
        let _ = std::fs::remove_file(path);
    }
    exit();
}

/// Writes a file whole or not at all: `write` fills a temporary file, which replaces `path` when it is complete and synced. If `path` is a symbolic link, the
/// file that it points to is replaced.
///
/// # Errors
/// As [`check_output`], the errors of `write`, and when the folder cannot be written or has no room. The old file stays as it was then.
pub fn write_whole<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let target = check_output(path)?;
    let folder = folder_of(&target);
    remove_leftovers(folder);
    let mut temporary = Temporary::new(folder)?;
    write(&mut temporary.file)?;
    temporary.file.flush()?;
    temporary.file.sync_all()?;
    Ok(temporary.rename(&target)?)
}

/// The file that an output at `path` replaces or makes: `path` itself, or the target of a symbolic link. A program calls it before it begins to work.
///
/// # Errors
/// When there is a device, a FIFO, a socket or a directory, or no folder for the file.
pub fn check_output(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::symlink_metadata(&target) {
            Ok(found) if found.is_symlink() => {
                let link = std::fs::read_link(&target)?;
                target = folder_of(&target).join(link);
            }
            Ok(found) if found.is_file() => return Ok(target),
            Ok(found) => return Err(not_regular(found.file_type())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if folder_of(&target).is_dir() && target.file_name().is_some() {
                    return Ok(target);
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Opens a regular file for reading. Anything else is refused before it is opened.
///
/// # Errors
/// When it cannot be opened or is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(not_regular(found.file_type()));
    }
    File::open(path)
}

/// The bytes of a regular file of at most `limit` bytes, which errors call by the name of the limit.
///
/// # Errors
/// As [`open_regular`], and when the file is larger.
pub fn read_limited(path: &Path, (name, limit): (&str, u64)) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let too_large = |bytes: u64| {
        io::Error::new(
            ErrorKind::FileTooLarge,
            format!(
                "the file has {bytes} bytes, the limit is {limit}; for a file that is trusted, raise it: --limit {name}=NUMBER"
            ),
        )
    };
    let size = file.metadata()?.len();
    if size > limit {
        return Err(too_large(size));
    }
    // A file may grow while it is read.
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// The text of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`read_limited`], and when it is not UTF-8.
pub fn read_text(path: &Path, limit: (&str, u64)) -> io::Result<String> {
    let bytes = read_limited(path, limit)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn not_regular(found: FileType) -> io::Error {
    #[cfg(unix)]
    use std::os::unix::fs::FileTypeExt;
    let what = match found {
        found if found.is_dir() => "a directory",
        #[cfg(unix)]
        found if found.is_fifo() => "a FIFO",
        #[cfg(unix)]
        found if found.is_socket() => "a socket",
        _ => "a device",
    };
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("is {what}, expected a regular file"),
    )
}

/// When a process started, in the system's ticks since its own start; `None` when there is no such process, or no such number on this system.
fn start_time(process: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program, in parentheses, may have any characters. The start is field 22, and the state after the name is field 3.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Removes the temporary files of processes that are gone. Errors do not matter: another writer may do the same.
fn remove_leftovers(folder: &Path) {
    // Without start times nobody can say that a process is gone.
    if start_time("self").is_none() {
        return;
    }
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_abandoned)
            && entry.file_type().is_ok_and(|found| found.is_file())
            // A process of another container has an id that means another process here, or none; the lock is the same.
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether a name is that of a temporary file whose process is gone.
fn is_abandoned(name: &str) -> bool {
    let middle = name.strip_prefix(PREFIX);
    let Some(middle) = middle.and_then(|name| name.strip_suffix(SUFFIX)) else {
        return false;
    };
    let mut parts = middle.split('-');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(process), Some(start), Some(_), None) => {
            let (process, start) = (process.parse::<u32>(), start.parse::<u64>());
            let (Ok(process), Ok(start)) = (process, start) else {
                return false;
            };
            start_time(&process.to_string()) != Some(start)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for a test.
    fn folder(name: &str) -> PathBuf {
        let random = RandomState::new().hash_one(name);
        let folder = std::env::temp_dir().join(format!("octofold-file-{name}-{random:x}"));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn write(path: &Path, text: &str) -> io::Result<()> {
        write_whole(path, |file| file.write_all(text.as_bytes()))
    }

    #[test]
    fn an_error_leaves_the_old_file_and_nothing_else() {
        let folder = folder("error");
        let path = folder.join("out");
        write(&path, "old").unwrap();
        let failed = write_whole(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&folder), ["out"]);
        write(&path, "new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(&folder), ["out"]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_what_is_no_file_is_refused() {
        use std::os::unix::fs::symlink;
        use std::os::unix::net::UnixListener;
        let folder = folder("links");
        std::fs::create_dir(folder.join("inner")).unwrap();
        symlink("inner/target", folder.join("link")).unwrap();
        symlink("link", folder.join("chain")).unwrap();
        // The target does not exist at first.
        for text in ["first", "second"] {
            write(&folder.join("chain"), text).unwrap();
            assert_eq!(
                std::fs::read(folder.join("inner/target")).unwrap(),
                text.as_bytes()
            );
            assert!(folder.join("link").is_symlink() && folder.join("chain").is_symlink());
        }
        symlink("circle", folder.join("circle")).unwrap();
        symlink("/dev/null", folder.join("null")).unwrap();
        let _listener = UnixListener::bind(folder.join("socket")).unwrap();
        for refused in ["circle", "null", "socket", "inner", "missing/out", ".."] {
            let path = folder.join(refused);
            assert!(write(&path, "x").is_err(), "{refused}");
            assert!(read_limited(&path, ("bytes", 10)).is_err(), "{refused}");
        }
        assert!(write(Path::new("/dev/null"), "x").is_err());
        use std::os::unix::fs::FileTypeExt;
        assert!(
            std::fs::metadata("/dev/null")
                .unwrap()
                .file_type()
                .is_char_device()
        );
        assert_eq!(names(&folder.join("inner")), ["target"]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_files_of_processes_that_are_gone_are_removed() {
        let folder = folder("leftovers");
        let own = start_time("self").unwrap();
        let process = std::process::id();
        let name = |process: u32, start: u64| format!("{PREFIX}{process}-{start}-00ff{SUFFIX}");
        // This process now, another one that had its id, one whose id no process has, and files that are not ours.
        let alive = name(process, own);
        let gone = [name(process, own + 1), name(u32::MAX, 1)];
        let foreign = [
            ".octofold-notes.tmp".to_owned(),
            ".octofold-1-2.tmp".to_owned(),
        ];
        for name in gone.iter().chain(&foreign).chain([&alive]) {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        // A process that holds the lock lives, whatever its id says: it may be in another container.
        let locked = name(u32::MAX, 7);
        let file = File::create(folder.join(&locked)).unwrap();
        file.lock().unwrap();
        write(&folder.join("out"), "x").unwrap();
        let mut expected = vec![alive, locked, "out".to_owned()];
        expected.extend(foreign);
        expected.sort();
        assert_eq!(names(&folder), expected);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn files_above_the_limit_are_refused() {
        let folder = folder("limit");
        let path = folder.join("in");
        write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, ("text-bytes", 5)).unwrap(), "12345");
        let error = read_text(&path, ("text-bytes", 4)).unwrap_err().to_string();
        assert!(error.contains("--limit text-bytes=NUMBER"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
