//! The command, run in a folder of its own.

use std::path::PathBuf;
use std::process::Command;

use octofold::tensor::npy;
use serde_json::Value;
use tempfile::TempDir;

use super::{CALIBRATION, MODELS, TEST, images, models};

/// What a command did.
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Flags with files of the folder `models`.
fn flags(flag: &str, file: &str, samples: &str) -> Vec<String> {
    let path = |file: &str| models(file).display().to_string();
    let (data, config) = (path(file), path("fashion.toml"));
    let flags = [flag, &data, "--config", &config, "--samples", samples];
    flags.map(str::to_owned).to_vec()
}

/// The flags that name calibration data.
pub(crate) fn calibration() -> Vec<String> {
    flags("--calibrate", CALIBRATION, "64")
}

/// The flags that name test data.
pub(crate) fn test_data(samples: usize) -> Vec<String> {
    flags("--data", TEST, &samples.to_string())
}

/// Words as arguments, and more of them.
fn arguments(words: &str, more: &[String]) -> Vec<String> {
    let words = words.split_whitespace().map(|word| {
        let stem = MODELS.iter().find(|stem| word == format!("{{{stem}}}"));
        stem.map_or(word.to_owned(), |stem| {
            models(&format!("{stem}.onnx")).display().to_string()
        })
    });
    words.chain(more.iter().cloned()).collect()
}

/// What a command does, which must not panic.
fn done(mut command: Command) -> Done {
    let output = command.output().expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let done = Done {
        status: output.status.code().expect("no signal"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    done
}

/// A folder to work in.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(file), content).expect("a file");
    }

    /// The names of the files that are there.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("a folder");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The command in the folder: words, which `{name}` makes the paths of own models, and more arguments.
    pub(crate) fn command(&self, words: &str, more: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_octofold"));
        command.args(arguments(words, more));
        self.prepared(command)
    }

    fn prepared(&self, mut command: Command) -> Command {
        command
            .current_dir(self.0.path())
            .env_remove("RUST_LOG")
            .env_remove("OCTOFOLD_ISA");
        command
    }

    /// Runs the command on the kernels of an instruction set.
    pub(crate) fn run_with(&self, isa: Option<&str>, words: &str, more: &[String]) -> Done {
        let mut command = self.command(words, more);
        if let Some(isa) = isa {
            command.env("OCTOFOLD_ISA", isa);
        }
        done(command)
    }

    /// Runs the command by a shell that sets a limit first. It is ended after a minute.
    #[cfg(unix)]
    pub(crate) fn run_limited(&self, limit: &str, words: &str, more: &[String]) -> Done {
        let mut command = Command::new("sh");
        let script = format!("{limit}; exec timeout 60 \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_octofold")]);
        command.args(arguments(words, more));
        done(self.prepared(command))
    }

    pub(crate) fn run(&self, words: &str, more: &[String]) -> Done {
        self.run_with(None, words, more)
    }

    /// What a command that succeeds prints.
    pub(crate) fn succeeds(&self, words: &str, more: &[String]) -> String {
        let done = self.run(words, more);
        assert_eq!(done.status, 0, "{words}: {}", done.stderr);
        done.stdout
    }

    /// The one JSON object that a command prints, and nothing else.
    pub(crate) fn json(&self, words: &str, more: &[String]) -> Value {
        let text = self.succeeds(words, more);
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words}: {error}: {text}"));
        assert!(value.is_object(), "{words}: {value}");
        value
    }

    /// The message of a command that fails; no file may be left, and nothing printed.
    pub(crate) fn fails(&self, words: &str, more: &[String], told: &[&str]) {
        let before = self.files();
        let Done {
            status,
            stdout,
            stderr,
        } = self.run(words, more);
        assert_eq!((status, stdout.as_str()), (1, ""), "{words}: {stderr}");
        assert!(stderr.starts_with("error: "), "{words}: {stderr}");
        for word in told {
            assert!(
                stderr.contains(word),
                "{words}: no `{word}` is told: {stderr}"
            );
        }
        assert_eq!(self.files(), before, "{words}: a file is left");
    }

    /// Both own models, compiled to `NAME.oct` for integers.
    pub(crate) fn compiled() -> Self {
        let folder = Self::new();
        for name in MODELS {
            folder.succeeds(&format!("compile {{{name}}} -o {name}.oct"), &calibration());
        }
        folder
    }

    /// Test images as `images.npz` and `images.npy`.
    pub(crate) fn with_images(self) -> Self {
        let images = images(3).expect("images");
        let mut bytes = Vec::new();
        npy::write_npy(&mut bytes, &images).expect("an array");
        self.write("images.npy", bytes);
        let file = std::fs::File::create(self.path("images.npz")).expect("a file");
        npy::write_npz(file, &[("input".to_owned(), images)]).expect("an archive");
        self
    }
}

/// A number of a JSON object.
pub(crate) fn number(value: &Value, key: &str) -> f64 {
    let number = value[key].as_f64();
    number.unwrap_or_else(|| panic!("no number `{key}` in {value}"))
}
