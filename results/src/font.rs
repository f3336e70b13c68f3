//! The one font: measuring text and turning an SVG into a PNG, the same on every machine. Knows no chart.
//!
//! Noto Sans is embedded (SIL Open Font License 1.1, by way of the `notosans` crate), so nothing installed is used.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::svg::{Anchor, Svg, TextStyle};

/// Pixels of a PNG for each of the SVG's.
const SCALE: f32 = 2.5;

/// The embedded font, loaded.
pub struct Font {
    options: Options<'static>,
}

impl Font {
    /// Loads the regular and the bold face.
    pub fn load() -> Self {
        let mut faces = fontdb::Database::new();
        faces.load_font_data(notosans::REGULAR_TTF.to_vec());
        faces.load_font_data(notosans::BOLD_TTF.to_vec());
        Self { options: Options { fontdb: Arc::new(faces), ..Options::default() } }
    }

    /// The width of text as it will be drawn, px.
    pub fn width(&self, style: TextStyle, text: &str) -> f64 {
        let mut svg = Svg::new(10.0);
        svg.text((0.0, 0.0), Anchor::Start, style, false, text);
        let tree = Tree::from_str(&svg.finish(10.0, ""), &self.options).expect("our own SVG is well-formed");
        let bounds = tree.root().children().last().map(|node| node.bounding_box().width());
        bounds.map_or(0.0, f64::from)
    }

    /// The SVG as PNG bytes.
    pub fn png(&self, svg: &str) -> Vec<u8> {
        let tree = Tree::from_str(svg, &self.options).expect("our own SVG is well-formed");
        let size = tree.size().to_int_size().scale_by(SCALE).expect("a figure is some pixels wide and high");
        let mut pixmap =
            Pixmap::new(size.width(), size.height()).expect("a figure is some pixels wide and high");
        resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixmap.as_mut());
        pixmap.encode_png().expect("encoding into memory does not fail")
    }
}
