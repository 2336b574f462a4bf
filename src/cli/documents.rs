//! The tables of the documents that follow from lists in the code: options and statistics.
//!
//! Invariant: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in README.md or
//! docs/ is the table made here; `UPDATE=1 cargo test --bins documents` writes it.

use super::Cli;
use clap::{Arg, CommandFactory};
use scx_manyland::abi::statistics::{STATISTICS, Scope};
use scx_manyland::program;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn options() -> String {
    let command = program::complete(Cli::command());
    let rows = command.get_arguments().filter(|arg| !arg.is_hide_set()).map(option);
    format!("| option | meaning |\n|---|---|\n{}", rows.collect::<String>())
}

fn option(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("-{short}, "));
    let long = arg.get_long().expect("every option has a long name");
    let mut name = format!("{}--{long}", short.unwrap_or_default());
    let help = arg.get_help().expect("every option is explained").to_string();
    // Some defaults are given in words.
    let (text, default) = help.split_at(help.find(" [default").unwrap_or(help.len()));
    let (mut meaning, mut default) = (text.to_owned(), default.to_owned());
    if arg.get_action().takes_values() {
        let values = arg.get_value_names().unwrap_or_default();
        values.iter().for_each(|value| name += &format!(" {value}"));
        let choice = arg.get_possible_values();
        let choice: Vec<_> = choice.iter().map(|it| format!("`{}`", it.get_name())).collect();
        if !choice.is_empty() {
            meaning += &format!(": {}", choice.join(", "));
        }
        for value in arg.get_default_values() {
            default += &format!(" [default: {}]", value.to_string_lossy());
        }
    }
    meaning += &default;
    format!("| `{name}` | {meaning} |\n")
}

fn statistics() -> String {
    let rows = STATISTICS.iter().map(|it| {
        let of = match it.scope {
            Scope::Domain => "domain",
            Scope::Process => "process",
        };
        format!("| `{}` | {of} | {} | {} |\n", it.name, it.kind.name(), it.meaning)
    });
    format!("| field | of | kind | meaning |\n|---|---|---|---|\n{}", rows.collect::<String>())
}

fn markdown(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// Holds the document that has a table to it.
fn hold(name: &str, table: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md")];
    markdown(&root.join("docs"), &mut documents);
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let mut documents_with_it = 0;
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        let Some((before, rest)) = text.split_once(&begin) else { continue };
        let (present, after) = rest.split_once(&end).expect("a table that begins ends");
        documents_with_it += 1;
        if present == table {
            continue;
        }
        assert!(
            env::var_os("UPDATE").is_some(),
            "{} has another table of {name}; UPDATE=1 cargo test --bins documents writes it",
            path.display()
        );
        fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    }
    assert_eq!(documents_with_it, 1, "one document has the table of {name}");
}

/// One test, so that two do not write the same file.
#[test]
fn tables_are_those_of_the_lists() {
    hold("options", &options());
    hold("statistics", &statistics());
}
