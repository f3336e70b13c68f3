//! A small SVG writer: rectangles, lines, text, with numbers to a hundredth. Knows no chart.

use std::fmt::Write;

/// The faces text is set in: ours first, then what a reader of the SVG is likely to have, none of them wider.
const FACES: &str = "Noto Sans, Helvetica Neue, Helvetica, Arial, sans-serif";

/// Where text is anchored on its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// It is centred there.
    Middle,
    /// It ends there.
    End,
}

/// How text looks.
#[derive(Debug, Clone, Copy)]
pub struct TextStyle {
    /// Height of the font, px.
    pub size: f64,
    /// Fill.
    pub colour: &'static str,
    /// Heavier.
    pub bold: bool,
}

/// An SVG document under way.
#[derive(Debug)]
pub struct Svg {
    body: String,
    width: f64,
}

impl Svg {
    /// An empty document of this width.
    pub fn new(width: f64) -> Self {
        Self { body: String::new(), width }
    }

    /// A filled rectangle.
    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        let _ = writeln!(
            self.body,
            r#"<rect x="{}" y="{}" width="{}" height="{}" fill="{fill}"/>"#,
            px(x),
            px(y),
            px(width),
            px(height)
        );
    }

    /// A filled circle, edged in white so that it shows on others.
    pub fn dot(&mut self, centre: (f64, f64), radius: f64, fill: &str) {
        let (x, y, r) = (px(centre.0), px(centre.1), px(radius));
        let _ = writeln!(
            self.body,
            r##"<circle cx="{x}" cy="{y}" r="{r}" fill="{fill}" stroke="#ffffff" stroke-width="1"/>"##
        );
    }

    /// A line from `from` to `to`.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{stroke}" stroke-width="{}"/>"#,
            px(from.0),
            px(from.1),
            px(to.0),
            px(to.1),
            px(width)
        );
    }

    /// Text on a baseline at `at`; turned a quarter to the left if `up`.
    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, style: TextStyle, up: bool, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if style.bold { r#" font-weight="bold""# } else { "" };
        let (x, y) = (px(at.0), px(at.1));
        let turn = if up { format!(r#" transform="rotate(-90 {x} {y})""#) } else { String::new() };
        let _ = writeln!(
            self.body,
            r#"<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{}"{weight} fill="{}"{turn}>{}</text>"#,
            px(style.size),
            style.colour,
            escape(text)
        );
    }

    /// The whole document, on white.
    pub fn finish(self, height: f64, title: &str) -> String {
        let (width, height) = (px(self.width), px(height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"{FACES}\">\n\
             <title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{}</svg>\n",
            escape(title),
            self.body
        )
    }
}

/// A coordinate to a hundredth, without trailing zeros.
fn px(value: f64) -> String {
    let hundredths = (value * 100.0).round();
    format!("{}", if hundredths == 0.0 { 0.0 } else { hundredths / 100.0 })
}

/// Text with XML's own characters written out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
