//! Streams of cameras.

use pinhole::camera::{MjpegChunk, MjpegReader};

/// Splits MJPEG into frames.
pub(crate) fn mjpeg(bytes: &[u8]) {
    let limit = 1 << 16;
    let mut reader = MjpegReader::new(bytes, limit);
    let mut frames = 0;
    while let Ok(Some(chunk)) = reader.next_chunk() {
        frames += 1;
        assert!(frames <= bytes.len(), "more frames than bytes");
        if let MjpegChunk::Frame { .. } = chunk {
            assert!(reader.capacity() <= 8 * limit);
        }
    }
}

/// Reads raw video.
pub(crate) fn y4m(bytes: &[u8]) {
    let frames = pinhole::internal::read_y4m(bytes.to_vec()).unwrap_or(0);
    assert!(frames <= bytes.len() as u64, "more frames than bytes");
}

/// Reads what a network camera asks for, one header per line, and answers it.
pub(crate) fn www_authenticate(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(answer) = pinhole::internal::answer_challenge(text.lines())
    {
        // Quoting doubles a text at most.
        assert!(answer.len() <= 2 * bytes.len() + 1000);
    }
}
