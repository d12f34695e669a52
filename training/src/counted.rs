//! Counts with their nouns, for reports and messages.

/// "1 shot", "2 shots", "3 classes": a number with its English noun, given in the singular.
pub fn counted(count: u64, noun: &str) -> String {
    let ending = match count {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_has_no_plural() {
        let all = [
            (0, "seed"),
            (1, "seed"),
            (2, "seed"),
            (1, "class"),
            (2, "new class"),
        ];
        let all = all.map(|(count, noun)| counted(count, noun));
        assert_eq!(
            all,
            ["0 seeds", "1 seed", "2 seeds", "1 class", "2 new classes"]
        );
    }
}
