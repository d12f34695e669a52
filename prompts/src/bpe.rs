//! Byte-pair merges of CLIP's vocabulary.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::LazyLock;

/// The merges as pairs of token ids, u16 little-endian, by falling priority; merge `i` makes token
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
const GONE: u32 = u32::MAX;

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
    // A doubly linked list over the positions, and the merges that are possible now. A merge makes
    // only pairs of lower priority than its own, so the order of the heap is that of the original,
    // which merges one kind of pair everywhere, from left to right, before it takes up the next.
    let end = symbols.len();
    let mut before: Vec<usize> = (0..end).map(|at| at.wrapping_sub(1)).collect();
    let mut after: Vec<usize> = (1..=end).collect();
    let merged = |left, right| MERGED.get(&(left, right)).copied();
    let mut heap: BinaryHeap<_> = (1..end)
        .filter_map(|at| Some(Reverse((merged(symbols[at - 1], symbols[at])?, at - 1))))
        .collect();
    while let Some(Reverse((token, at))) = heap.pop() {
        let right = after[at];
        // One of the two may have been merged with another symbol since.
        if symbols[at] == GONE || right == end || merged(symbols[at], symbols[right]) != Some(token)
        {
            continue;
        }
        symbols[at] = token;
        symbols[right] = GONE;
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
    out.extend(symbols.into_iter().filter(|&symbol| symbol != GONE));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What makes the order of the heap right.
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
