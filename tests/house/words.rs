//! The field's words, in prose: README, `docs/`, and the comments of `bpf/` and `src/`.
//!
//! Code between backticks may have any name: keys of the statistics, options and identifiers are
//! interfaces.

use crate::text::{Line, prose, words_only};
use crate::{Source, documents, sources};

/// Words that have a private meaning here, or none, and what to say.
const WORDS: [(&str, &str); 25] = [
    ("owed", "lag, credit"),
    ("front", "virtual time"),
    ("order", "key, vtime"),
    ("pace", "vtime rate"),
    ("reach|reaches|reached", "maximum lag"),
    ("told", "notified"),
    ("look|looks|looked|looking", "check, poll, scan"),
    ("turn|turns", "run, boost, attachment, slice"),
    ("take|takes|taken|took|taking", "drain, pop, consume, pick, accept, use"),
    ("beside", "next to, compared with"),
    ("but for", "except"),
    ("higher class", "higher scheduling class"),
    ("goes straight", "bypasses user space"),
    ("stay|stays|stayed", "generation; remain"),
    ("verdict|verdicts", "direct dispatch; result"),
    ("the net", "the safety net"),
    ("mend|mends|mended|mending", "fix"),
    ("place|places|placed", "CPU, position, step, put"),
    ("queued", "notice; waiting"),
    ("late", "undecided"),
    ("so many", "a number"),
    ("so long", "a time"),
    ("whoever", ACTOR),
    ("nobody", ACTOR),
    ("somebody", ACTOR),
];

/// What to say for a word that names no actor.
const ACTOR: &str = "name the actor";

/// How often words that name no actor may stand in all.
const WITHOUT_ACTOR: usize = 19;

/// Plain English with no meaning of the field's, for which there is no better word.
const ALLOWED: [&str; 2] = ["in order to", "memory order"];

struct Found {
    at: String,
    path: String,
    word: &'static str,
    say: &'static str,
    line: String,
}

#[test]
fn words_are_the_fields() {
    let only = std::env::var("IN").unwrap_or_default();
    let mut read = documents();
    read.extend(
        sources(&["bpf", "src"]).into_iter().filter(|it| it.has_extension(&["c", "h", "rs"])),
    );
    read.retain(|source| source.path.contains(&only));
    let found: Vec<Found> = read.iter().flat_map(of).collect();
    for source in &read {
        let count = found.iter().filter(|it| it.path == source.path).count();
        if count > 0 {
            println!("{count:>5} {}", source.path);
        }
    }
    let (without_actor, others): (Vec<_>, Vec<_>) =
        found.iter().partition(|found| found.say == ACTOR);
    println!("{:>5} in all, and {} that name no actor", others.len(), without_actor.len());
    let mut faults: Vec<&Found> = others;
    if without_actor.len() > WITHOUT_ACTOR {
        faults.extend(without_actor);
    }
    faults.sort_by_key(|found| read.iter().position(|source| source.path == found.path));
    let said = faults.iter().map(|it| format!("{}: {} ({}): {}", it.at, it.word, it.say, it.line));
    crate::assert_none(&said.collect::<Vec<_>>(), "words that are not the field's");
}

/// The words of a file that are not the field's.
fn of(source: &Source) -> Vec<Found> {
    let lines = words_only(prose(source));
    let tokens: Vec<(usize, String)> = lines.iter().enumerate().flat_map(tokens).collect();
    let mut found = Vec::new();
    for (at, (line, _)) in tokens.iter().enumerate() {
        for (forms, say) in WORDS {
            let Some(word) = forms.split('|').find(|form| begins(&tokens[at..], form)) else {
                continue;
            };
            let is_allowed = ALLOWED.iter().any(|phrase| is_within(&tokens, at, phrase));
            if !is_allowed {
                let Line { number, text } = &lines[*line];
                let (at, path, line) =
                    (source.at(*number), source.path.clone(), text.trim().to_owned());
                found.push(Found { at, path, word, say, line });
            }
        }
    }
    found
}

/// The words of a line in small letters, each with the line's index. A backtick is one.
fn tokens((index, line): (usize, &Line)) -> Vec<(usize, String)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '`';
    let words = line.text.split(|c| !is_part(c)).filter(|word| !word.is_empty());
    words.map(|word| (index, word.to_lowercase())).collect()
}

/// Whether tokens begin with the words of a phrase.
fn begins(tokens: &[(usize, String)], phrase: &str) -> bool {
    let mut tokens = tokens.iter();
    phrase.split(' ').all(|word| tokens.next().is_some_and(|(_, token)| token == word))
}

/// Whether the token at an index belongs to a phrase.
fn is_within(tokens: &[(usize, String)], at: usize, phrase: &str) -> bool {
    let words = phrase.split(' ').count();
    (at.saturating_sub(words - 1)..=at).any(|from| begins(&tokens[from..], phrase))
}
