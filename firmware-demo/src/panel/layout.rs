//! How the glass of a TFT lies in its controller's memory.

use crate::config;

/// A TFT's controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// ST7789.
    St7789,
    /// ILI9341.
    Ili9341,
}

/// Columns and rows of memory that both controllers have.
const MEMORY: [u32; 2] = [240, 320];

/// What a [`config::Tft`] comes to, with what is usual where it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Columns and rows of the memory that the glass shows.
    pub glass: [u16; 2],
    /// The first of them.
    pub offset: [u16; 2],
    /// Clockwise, in degrees: 0, 90, 180 or 270.
    pub rotation: u16,
    /// Whether the glass shows the memory's columns from the right.
    pub mirrored: bool,
    /// Whether the panel wants inverted colours.
    pub inverted: bool,
    /// Whether blue and red are exchanged.
    pub bgr: bool,
}

impl Layout {
    /// What is usual: an IPS panel of 240 x 240 for the ST7789, and for the ILI9341 one of 320 x 240 whose columns
    /// begin on the right, as on the boards with a touch screen and a slot for SD cards.
    ///
    /// # Errors
    /// The field that does not fit the controller's memory, what was expected and what was found.
    pub fn new(
        controller: Controller,
        config: &config::Tft,
    ) -> Result<Self, (&'static str, &'static str, String)> {
        let (usual, rotation) = match controller {
            Controller::St7789 => ([240, 240], 0),
            Controller::Ili9341 => ([240, 320], 90),
        };
        let rotation = config.rotation.unwrap_or(rotation);
        let turned = match rotation {
            0 | 180 => false,
            90 | 270 => true,
            _ => {
                let found = rotation.to_string();
                return Err(("display.rotation", "0, 90, 180 or 270", found));
            }
        };
        let (across, down) = match turned {
            false => (
                ("display.width", config.width),
                ("display.height", config.height),
            ),
            true => (
                ("display.height", config.height),
                ("display.width", config.width),
            ),
        };
        let side = |(field, given): (&'static str, Option<u32>), axis: usize| {
            let pixels = given.unwrap_or(usual[axis]);
            let expected = match MEMORY[axis] {
                240 => "64 to 240 at this rotation",
                _ => "64 to 320 at this rotation",
            };
            match (64..=MEMORY[axis]).contains(&pixels) {
                true => Ok(pixels as u16),
                false => Err((field, expected, pixels.to_string())),
            }
        };
        let glass = [side(across, 0)?, side(down, 1)?];
        let [columns, rows] = glass.map(u32::from);
        let [x, y] = config.offset;
        if x > MEMORY[0] - columns || y > MEMORY[1] - rows {
            return Err((
                "display.offset",
                "the glass inside the controller's memory of 240 x 320 pixels",
                format!("[{x}, {y}] and {columns} x {rows} pixels"),
            ));
        }
        Ok(Self {
            glass,
            offset: [x as u16, y as u16],
            rotation: rotation as u16,
            mirrored: controller == Controller::Ili9341,
            inverted: config.inverted.unwrap_or(controller == Controller::St7789),
            bgr: config.bgr.unwrap_or(controller == Controller::Ili9341),
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
