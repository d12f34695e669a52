//! Where a TFT's glass lies in its controller's memory.

use super::config::TftConfig;
use crate::validation::{FieldError, require};

/// A TFT controller: its memory, and the defaults for the fields that [`TftConfig`] leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TftController {
    /// Columns and rows of the memory.
    pub memory: [u32; 2],
    /// Columns and rows that the usual glass shows.
    pub glass: [u32; 2],
    /// Clockwise rotation in degrees at which the usual glass is mounted.
    pub rotation: u32,
    /// Whether the usual glass shows the memory's columns from right to left.
    pub mirrored: bool,
    /// Whether the usual panel needs inverted colours.
    pub inverted: bool,
    /// Whether the usual panel swaps blue and red.
    pub bgr: bool,
}

impl TftController {
    /// Checks the fields of `config` for a display with this controller.
    pub(crate) fn validate(&self, config: &TftConfig) -> Result<(), FieldError> {
        config.validate_bus()?;
        TftLayout::new(self, config).map(drop)
    }
}

/// A [`TftConfig`] with the controller's defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TftLayout {
    /// Columns and rows of the memory that the glass shows.
    pub glass: [u16; 2],
    /// First column and row that the glass shows.
    pub offset: [u16; 2],
    /// Clockwise rotation in degrees: 0, 90, 180 or 270.
    pub rotation: u16,
    /// Whether the glass shows the memory's columns from right to left.
    pub mirrored: bool,
    /// Whether the panel needs inverted colours.
    pub inverted: bool,
    /// Whether blue and red are swapped.
    pub bgr: bool,
}

impl TftLayout {
    /// Fills in the defaults and checks that the glass fits the memory.
    ///
    /// # Errors
    /// The field that does not fit.
    pub fn new(controller: &TftController, config: &TftConfig) -> Result<Self, FieldError> {
        let rotation = config.rotation.unwrap_or(controller.rotation);
        require(
            [0, 90, 180, 270].contains(&rotation),
            "display.rotation",
            "0, 90, 180 or 270",
            rotation,
        )?;
        let (mut across, mut down) = (
            ("display.width", config.width),
            ("display.height", config.height),
        );
        if [90, 270].contains(&rotation) {
            (across, down) = (down, across);
        }
        let side = |(field, given): (&'static str, Option<u32>), axis: usize| {
            let pixels = given.unwrap_or(controller.glass[axis]);
            let limit = controller.memory[axis];
            let expected = format_args!("64 to {limit} at this rotation");
            require((64..=limit).contains(&pixels), field, expected, pixels)?;
            Ok(pixels)
        };
        let [columns, rows] = [side(across, 0)?, side(down, 1)?];
        let [x, y] = config.offset;
        let [memory_columns, memory_rows] = controller.memory;
        require(
            x <= memory_columns - columns && y <= memory_rows - rows,
            "display.offset",
            format_args!(
                "the glass inside the controller's memory of {memory_columns} x {memory_rows} pixels"
            ),
            format_args!("[{x}, {y}] and {columns} x {rows} pixels"),
        )?;
        Ok(Self {
            glass: [columns as u16, rows as u16],
            offset: [x as u16, y as u16],
            rotation: rotation as u16,
            mirrored: controller.mirrored,
            inverted: config.inverted.unwrap_or(controller.inverted),
            bgr: config.bgr.unwrap_or(controller.bgr),
        })
    }

    /// Width and height as mounted.
    pub fn size(&self) -> [u16; 2] {
        let [columns, rows] = self.glass;
        match self.rotation {
            90 | 270 => [rows, columns],
            _ => [columns, rows],
        }
    }
}
