//! Names that were probably meant.

/// The candidate that `name` is most probably a misspelling of: the one with the fewest inserted, removed, replaced and
/// transposed characters, in any case, if they are at most a third of the name's. Of several, the first. Names longer than
/// 256 characters have none.
pub fn most_similar<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    const MAX_CHARACTERS: usize = 256;
    let characters = |text: &str| text.to_lowercase().chars().collect::<Vec<char>>();
    let name = characters(name);
    let most = name.len().div_ceil(3);
    if name.len() > MAX_CHARACTERS {
        return None;
    }
    let near = candidates.into_iter().filter_map(|candidate| {
        let other = characters(candidate);
        // Each character that one has more is an edit.
        if name.len().abs_diff(other.len()) > most {
            return None;
        }
        let edits = edits(&name, &other);
        (edits <= most).then_some((edits, candidate))
    });
    near.min_by_key(|(edits, _)| *edits).map(|(_, near)| near)
}

/// The optimal string alignment distance: transposed neighbours are one edit.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_edits_decide() {
        let names = ["demo", "cat", "polar bear", "polar hare"];
        for (name, expected) in [
            ("dmo", Some("demo")),
            ("demo2", Some("demo")),
            ("DEMO", Some("demo")),
            ("deom", Some("demo")),
            ("cta", Some("cat")),
            ("dog", None),
            ("polarbear", Some("polar bear")),
            ("polar bare", Some("polar hare")),
            ("", None),
        ] {
            assert_eq!(most_similar(name, names), expected, "{name}");
        }
        assert_eq!(most_similar(&"a".repeat(257), ["a"]), None);
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "ab", 2),
            ("ab", "", 2),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("abcd", "badc", 2),
        ] {
            let [a, b] = [a, b].map(|text| text.chars().collect::<Vec<_>>());
            assert_eq!(edits(&a, &b), expected);
        }
    }
}
