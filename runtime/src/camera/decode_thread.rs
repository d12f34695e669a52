//! The decode thread: from an encoded frame to the pixels of the region of interest.

use std::time::Instant;

use pinhole_preprocessing::{DecodeOptions, Image};

use super::error::CameraError;
use super::event::FrameCounters;
use super::frame::{CapturedFrame, EncodedFrame, Frame};
use super::region::Region;
use super::slot::Shared;
use super::still::{StillGate, Thumbnail};

/// Decodes until the source ends.
pub(super) struct DecodeThread {
    pub(super) options: DecodeOptions,
    pub(super) region: Option<Region>,
    pub(super) gate: Option<StillGate>,
}

impl DecodeThread {
    pub(super) fn run(mut self, shared: &Shared) -> Result<(), CameraError> {
        // Of the first frame. The region is meant for frames of this size.
        let mut first_size = None;
        while let Some(frame) = shared.next_captured() {
            let start = Instant::now();
            let CapturedFrame {
                number,
                captured,
                time,
                encoded,
            } = frame;
            let (file, image) = match encoded {
                EncodedFrame::Jpeg(bytes) => (None, Image::decode(&bytes, &self.options)),
                EncodedFrame::File { path, bytes } => {
                    (Some(path), Image::decode(&bytes, &self.options))
                }
                EncodedFrame::Yuv(frame) => (None, frame.into_image()),
            };
            let mut image = match image {
                Ok(image) => image,
                Err(e) => {
                    shared.push_corrupt(number, file, e.to_string());
                    continue;
                }
            };
            if let Some(region) = self.region {
                let (width, height) = image.original_size();
                let outside = CameraError::Region {
                    region,
                    width,
                    height,
                };
                // In a stream, the same pixels of a frame of another size show something else.
                match (first_size, region.crop(&image)) {
                    (Some((w, h)), _) if file.is_none() && (w, h) != (width, height) => {
                        let reason = format!(
                            "the frames changed from {w} x {h} to {width} x {height} pixels, for which region {region} \
                             is not meant; restart with a region of the new size"
                        );
                        shared.push_corrupt(number, file, reason);
                        continue;
                    }
                    (_, Some(cropped)) => image = cropped,
                    (Some(_), None) => {
                        shared.push_corrupt(number, file, outside.to_string());
                        continue;
                    }
                    (None, None) => {
                        shared.count(|c| c.corrupt += 1);
                        return Err(outside);
                    }
                }
                first_size = Some((width, height));
            }
            let still = match &mut self.gate {
                Some(gate) => {
                    // Both the comparison and the classifier read RGB.
                    image = image.in_rgb();
                    gate.is_still(Thumbnail::new(&image.to_rgb()))
                }
                None => false,
            };
            let refresh = shared.take_refresh();
            let still = still && !refresh;
            shared.push_decoded(Frame {
                number,
                file,
                captured,
                time,
                decode: start.elapsed(),
                image: (!still).then_some(image),
                counters: FrameCounters::default(),
            });
        }
        Ok(())
    }
}
