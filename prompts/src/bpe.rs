//! Byte-pair merges of CLIP's vocabulary.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::LazyLock;

/// The merges as pairs of token ids, u16 little-endian, in order of decreasing priority; merge `i` makes token
/// `FIRST_MERGED + i`. OpenAI's vocabulary (MIT licence, see data/README.md).
const MERGES: &[u8] = include_bytes!("../data/merges.bin");

/// Tokens 0..256 are single bytes, 256..512 single bytes that end a word.
const WORD_END: u32 = 256;
const FIRST_MERGED: u32 = 512;

static MERGED: LazyLock<HashMap<(u32, u32), u32>> = LazyLock::new(|| {
    let id = |bytes: &[u8]| u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let pairs = MERGES
        .chunks_exact(4)
        .map(|pair| (id(&pair[..2]), id(&pair[2..])));
    pairs.zip(FIRST_MERGED..).collect()
});

/// The token of each single byte: first the printable characters of Latin-1, then the others.
const BYTE_TOKENS: [u8; 256] = {
    let mut tokens = [0; 256];
    let mut next = 0;
    let mut others = 0;
    while others < 2 {
        let mut byte = 0;
        while byte < 256 {
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            if printable == (others == 0) {
                tokens[byte] = next as u8;
                next += 1;
            }
            byte += 1;
        }
        others += 1;
    }
    tokens
};

/// Marks a symbol that was merged into the one before it.
const MERGED_AWAY: u32 = u32::MAX;

/// Appends the tokens of one word (UTF-8, not empty) to `out`. Takes O(n log n) time.
pub(crate) fn encode_word(word: &[u8], out: &mut Vec<u32>) {
    let mut symbols: Vec<u32> = word
        .iter()
        .map(|&b| u32::from(BYTE_TOKENS[usize::from(b)]))
        .collect();
    let Some(last) = symbols.last_mut() else {
        return;
    };
    *last += WORD_END;
    // A doubly linked list of the positions, and a heap of the possible merges. A merge creates only pairs of lower
    // priority than its own, so the heap's order is that of the reference, which merges one pair everywhere, from left
    // to right, before the next one.
    let end = symbols.len();
    let mut before: Vec<usize> = (0..end).map(|at| at.wrapping_sub(1)).collect();
    let mut after: Vec<usize> = (1..=end).collect();
    let merged = |left, right| MERGED.get(&(left, right)).copied();
    let mut heap: BinaryHeap<_> = (1..end)
        .filter_map(|at| Some(Reverse((merged(symbols[at - 1], symbols[at])?, at - 1))))
        .collect();
    while let Some(Reverse((token, at))) = heap.pop() {
        let right = after[at];
        // Skip an outdated entry: one of the two was merged with another symbol meanwhile.
        if symbols[at] == MERGED_AWAY
            || right == end
            || merged(symbols[at], symbols[right]) != Some(token)
        {
            continue;
        }
        symbols[at] = token;
        symbols[right] = MERGED_AWAY;
        let next = after[right];
        after[at] = next;
        if next < end {
            before[next] = at;
            heap.extend(merged(token, symbols[next]).map(|token| Reverse((token, at))));
        }
        if let Some(&symbol) = symbols.get(before[at]) {
            heap.extend(merged(symbol, token).map(|token| Reverse((token, before[at]))));
        }
    }
    out.extend(symbols.into_iter().filter(|&symbol| symbol != MERGED_AWAY));
}

/// The text of tokens, with a space after each word; ids beyond the vocabulary are left out.
pub(crate) fn decode(ids: &[u32]) -> String {
    let mut bytes = vec![];
    let mut todo: Vec<u32> = ids.iter().rev().copied().collect();
    while let Some(id) = todo.pop() {
        if let Some(merge) = id.checked_sub(FIRST_MERGED) {
            // Both are lower than the merged token.
            if let Some(pair) = MERGES.chunks_exact(4).nth(merge as usize) {
                let half = |at: usize| u32::from(u16::from_le_bytes([pair[at], pair[at + 1]]));
                todo.extend([half(2), half(0)]);
            }
        } else {
            let byte = BYTE_TOKENS
                .iter()
                .position(|&token| u32::from(token) == id % WORD_END);
            bytes.extend(byte.map(|byte| byte as u8));
            if id >= WORD_END {
                bytes.push(b' ');
            }
        }
    }
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoded_tokens_are_the_words() {
        let mut ids = vec![];
        for word in ["polar", "bear", "häuschen", "."] {
            encode_word(word.as_bytes(), &mut ids);
        }
        assert_eq!(decode(&ids), "polar bear häuschen .");
        assert_eq!(decode(&[49_406, u32::MAX]), "");
    }

    /// If this fails, the heap's order differs from the reference's.
    #[test]
    fn merges_join_earlier_tokens() {
        assert_eq!(MERGED.len(), 48_894);
        assert!(
            MERGED
                .iter()
                .all(|(&(left, right), &token)| left < token && right < token)
        );
    }
}
