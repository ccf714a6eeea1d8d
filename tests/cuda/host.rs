//! The CUDA sources as plain C++: what they compute is seen without a GPU, by whatever C++ compiler there is.

use plateau_shaders::KERNELS;
use plateau_tests::Case;
use plateau_tests::cuda::{Call, SOURCES};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

/// The compiled sources, running.
pub struct Host {
    child: Child,
    entries: Vec<&'static str>,
    _folder: tempfile::TempDir,
}

/// One place of the sources, changed: file, text, other text.
pub type Mutation = (&'static str, &'static str, &'static str);

const COMPILER: &str = "c++";

impl Host {
    /// `None`, and a line that says so, where there is no C++ compiler.
    pub fn compile(mutation: Option<Mutation>) -> Option<Self> {
        let mut text = String::new();
        for (file, source) in SOURCES {
            match mutation {
                Some((changed, from, to)) if changed == *file => {
                    assert_eq!(source.matches(from).count(), 1, "{file}: {from:?}");
                    text += &source.replace(from, to);
                }
                Some(_) | None => text += source,
            }
        }
        let is_there = |name: &&str| text.contains(&format!("KERNEL({name})"));
        let entries: Vec<&str> = KERNELS
            .iter()
            .map(|kernel| kernel.name)
            .filter(is_there)
            .collect();
        let list: String = entries
            .iter()
            .map(|name| format!("  {{{name}}},\n"))
            .collect();
        text += &include_str!("host.cpp").replace("// ENTRIES\n", &list);

        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let (source, program) = (
            folder.path().join("kernels.cpp"),
            folder.path().join("kernels"),
        );
        std::fs::write(&source, text).expect("a temporary file");
        let compiler = Command::new(COMPILER)
            .args(["-std=c++17", "-O1", "-ffp-contract=off", "-o"])
            .args([&program, &source])
            .output();
        match compiler {
            Ok(output) => assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => {
                let line = format!("the CUDA sources as C++: {COMPILER}: {error}");
                plateau_tests::device::say_left_out("this machine", &line);
                return None;
            }
        }
        let child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("what was compiled runs");
        Some(Self {
            child,
            entries,
            _folder: folder,
        })
    }

    /// The words of each output binding, in the order of [`Case::outputs`].
    pub fn run(&mut self, case: &Case) -> Vec<Vec<u32>> {
        let name = case.kernel.name;
        let entry = self.entries.iter().position(|entry| *entry == name);
        let entry = entry.unwrap_or_else(|| panic!("{name} is not in the CUDA sources")) as u32;
        let lens: Vec<usize> = case.buffers.iter().map(Vec::len).collect();
        let call = Call::new(case.kernel, &case.params, &case.constants, &lens)
            .unwrap_or_else(|error| panic!("{error}"));
        let input = self.child.stdin.as_mut().expect("it is piped");
        let mut send = |bytes: &[u8]| input.write_all(bytes).expect("the program reads");
        send(bytemuck::bytes_of(&entry));
        send(bytemuck::bytes_of(&call));
        case.buffers
            .iter()
            .for_each(|words| send(bytemuck::cast_slice(words)));
        input.flush().expect("the program reads");
        let output = self.child.stdout.as_mut().expect("it is piped");
        let mut buffers = case.buffers.clone();
        for words in &mut buffers {
            let read = output.read_exact(bytemuck::cast_slice_mut(words));
            read.unwrap_or_else(|error| panic!("{name} [{}]: {error}", case.name));
        }
        let outputs = case.outputs.iter();
        outputs
            .map(|(binding, _)| buffers[binding - 1].clone())
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends with its input; how is of no matter any more.
        let _ = self.child.wait();
    }
}
