//! `plateau completions`: a script for a shell.

use crate::args::{Args, Completions};
use crate::console::print;
use anyhow::Result;
use clap::CommandFactory;

pub fn run(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "plateau", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(())
}
