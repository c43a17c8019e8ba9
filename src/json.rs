//! JSON, as far as files and plans of this library need it: written to a text, read without a tree.
//!
//! Crates for it are large: of a browser's download they were a quarter.

use std::fmt::Write as _;

/// Values within values that a reader follows.
const DEEPEST: usize = 128;

/// Writes a text from left to right. Commas come by themselves.
#[derive(Debug, Default)]
pub struct Writer(String);

impl Writer {
    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }

    fn separate(&mut self) {
        if !self.0.is_empty() && !self.0.ends_with(['{', '[', ':']) {
            self.0.push(',');
        }
    }

    fn plain(&mut self, text: &str) {
        self.separate();
        self.0.push_str(text);
    }

    /// Begins an object.
    pub fn object(&mut self) {
        self.plain("{");
    }

    /// Ends it.
    pub fn end_object(&mut self) {
        self.0.push('}');
    }

    /// Begins a list.
    pub fn list(&mut self) {
        self.plain("[");
    }

    /// Ends it.
    pub fn end_list(&mut self) {
        self.0.push(']');
    }

    /// The key of the value that follows.
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.text(key);
        self.0.push(':');
        self
    }

    /// A string.
    pub fn text(&mut self, text: &str) {
        self.plain("\"");
        for c in text.chars() {
            let escaped = match c {
                '"' => '"',
                '\\' => '\\',
                '\n' => 'n',
                '\r' => 'r',
                '\t' => 't',
                '\u{8}' => 'b',
                '\u{c}' => 'f',
                ..' ' => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(c));
                    continue;
                }
                _ => {
                    self.0.push(c);
                    continue;
                }
            };
            self.0.push('\\');
            self.0.push(escaped);
        }
        self.0.push('"');
    }

    /// A whole number.
    pub fn whole(&mut self, x: u64) {
        self.separate();
        let _ = write!(self.0, "{x}");
    }

    /// Several of them in a list.
    pub fn wholes(&mut self, list: impl IntoIterator<Item = u64>) {
        self.list();
        list.into_iter().for_each(|x| self.whole(x));
        self.end_list();
    }

    /// A finite number, to the last bit. Others are `null`.
    pub fn number(&mut self, x: f64) {
        if !x.is_finite() {
            return self.null();
        }
        self.separate();
        self.0.push_str(&crate::decimal::precise(x));
    }

    /// True or false.
    pub fn flag(&mut self, x: bool) {
        self.plain(if x { "true" } else { "false" });
    }

    /// Nothing.
    pub fn null(&mut self) {
        self.plain("null");
    }
}

/// What is wrong with a text, and where.
pub type Result<T> = std::result::Result<T, String>;

/// Reads a text from left to right.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Whether an object or a list was just opened.
    fresh: bool,
}

impl<'a> Reader<'a> {
    /// Of a whole text.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, fresh: false }
    }

    /// An error at this place.
    pub fn fail<T>(&self, problem: &str) -> Result<T> {
        Err(format!("{problem} at byte {}", self.at))
    }

    /// The next byte, 0 at the end.
    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn take(&mut self, byte: u8) -> bool {
        let is = self.byte() == byte;
        self.at += usize::from(is);
        is
    }

    /// The first byte of the next token.
    pub fn peek(&mut self) -> u8 {
        while matches!(self.byte(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
        self.byte()
    }

    /// The end of the text.
    ///
    /// # Errors
    /// There is more.
    pub fn end(&mut self) -> Result<()> {
        self.peek();
        if self.at < self.text.len() { self.fail("trailing characters") } else { Ok(()) }
    }

    fn open(&mut self, byte: u8, expected: &str) -> Result<()> {
        self.peek();
        self.fresh = true;
        if self.take(byte) { Ok(()) } else { self.fail(expected) }
    }

    /// Whether one more follows, before this end.
    fn more(&mut self, end: u8) -> Result<bool> {
        self.peek();
        let first = std::mem::take(&mut self.fresh);
        if self.take(end) {
            return Ok(false);
        }
        if first || self.take(b',') { Ok(true) } else { self.fail("expected a comma or the end") }
    }

    /// Begins an object, of which [`key`](Self::key) gives the keys.
    ///
    /// # Errors
    /// Something else stands here.
    pub fn object(&mut self) -> Result<()> {
        self.open(b'{', "expected an object")
    }

    /// The next key of an object, whose value follows, or its end.
    ///
    /// # Errors
    /// Something else stands here.
    pub fn key(&mut self) -> Result<Option<String>> {
        if !self.more(b'}')? {
            return Ok(None);
        }
        let key = self.text()?;
        self.peek();
        if self.take(b':') { Ok(Some(key)) } else { self.fail("expected a colon") }
    }

    /// Begins a list, of which [`item`](Self::item) tells whether it goes on.
    ///
    /// # Errors
    /// Something else stands here.
    pub fn list(&mut self) -> Result<()> {
        self.open(b'[', "expected a list")
    }

    /// Whether an item of a list follows.
    ///
    /// # Errors
    /// Something else stands here.
    pub fn item(&mut self) -> Result<bool> {
        self.more(b']')
    }

    /// A string.
    ///
    /// # Errors
    /// Something else stands here.
    pub fn text(&mut self) -> Result<String> {
        self.peek();
        if !self.take(b'"') {
            return self.fail("expected a string");
        }
        let mut out = String::new();
        loop {
            let from = self.at;
            while !matches!(self.byte(), b'"' | b'\\' | 0..b' ') {
                self.at += 1;
            }
            out.push_str(&self.text[from..self.at]);
            if self.take(b'"') {
                return Ok(out);
            }
            if !self.take(b'\\') {
                return self.fail("a string with a control character, or without an end");
            }
            let escaped = self.byte();
            self.at += 1;
            out.push(match escaped {
                b'"' | b'\\' | b'/' => char::from(escaped),
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'u' => self.unicode()?,
                _ => {
                    self.at -= 1;
                    return self.fail("an unknown escape");
                }
            });
        }
    }

    /// The character of an escape, of which `\u` has been read.
    fn unicode(&mut self) -> Result<char> {
        let mut unit = self.unit()?;
        if (0xd800..0xdc00).contains(&unit) && self.take(b'\\') && self.take(b'u') {
            let low = self.unit()?;
            // What is no pair stays out of the range of characters.
            unit = match low.checked_sub(0xdc00) {
                Some(low) if low < 0x400 => 0x10000 + ((unit - 0xd800) << 10) + low,
                _ => unit,
            };
        }
        char::from_u32(unit).map_or_else(|| self.fail("half a character"), Ok)
    }

    fn unit(&mut self) -> Result<u32> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = char::from(self.byte()).to_digit(16) else {
                return self.fail("expected four hexadecimal digits");
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn digits(&mut self) -> Result<()> {
        let from = self.at;
        while self.byte().is_ascii_digit() {
            self.at += 1;
        }
        if self.at > from { Ok(()) } else { self.fail("expected a number") }
    }

    /// The text of a number, and whether it is a whole one that is not negative.
    fn token(&mut self) -> Result<(&'a str, bool)> {
        self.peek();
        let from = self.at;
        let mut whole = !self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            whole = false;
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            whole = false;
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok((&self.text[from..self.at], whole))
    }

    /// A number, rounded to the nearest that there is.
    ///
    /// # Errors
    /// Something else stands here, or it is too large.
    pub fn number(&mut self) -> Result<f64> {
        let (text, _) = self.token()?;
        let x = crate::decimal::parse(text);
        if x.is_finite() { Ok(x) } else { self.fail("a number out of range") }
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// Something else stands here, or it is too large.
    pub fn whole(&mut self) -> Result<u64> {
        match self.token()? {
            (text, true) => text.parse().or_else(|_| self.fail("a number out of range")),
            _ => self.fail("expected a whole number that is not negative"),
        }
    }

    /// The same, as a size.
    ///
    /// # Errors
    /// As for [`whole`](Self::whole).
    pub fn size(&mut self) -> Result<usize> {
        usize::try_from(self.whole()?).or_else(|_| self.fail("a number out of range"))
    }

    /// A list of sizes.
    ///
    /// # Errors
    /// Something else stands here.
    pub fn sizes(&mut self) -> Result<Vec<usize>> {
        let mut list = Vec::new();
        self.list()?;
        while self.item()? {
            list.push(self.size()?);
        }
        Ok(list)
    }

    fn word(&mut self, word: &str) -> bool {
        self.peek();
        let is = self.text[self.at..].starts_with(word);
        if is {
            self.at += word.len();
        }
        is
    }

    /// True or false.
    ///
    /// # Errors
    /// Something else stands here.
    pub fn flag(&mut self) -> Result<bool> {
        if self.word("true") {
            return Ok(true);
        }
        if self.word("false") { Ok(false) } else { self.fail("expected true or false") }
    }

    /// Whether nothing stands here. It is passed then.
    pub fn null(&mut self) -> bool {
        self.word("null")
    }

    /// Passes a value, whatever it is.
    ///
    /// # Errors
    /// It is none.
    pub fn skip(&mut self) -> Result<()> {
        self.pass(DEEPEST)
    }

    fn pass(&mut self, depth: usize) -> Result<()> {
        if depth == 0 {
            return self.fail("too many values within values");
        }
        match self.peek() {
            b'{' => {
                self.object()?;
                while self.key()?.is_some() {
                    self.pass(depth - 1)?;
                }
                Ok(())
            }
            b'[' => {
                self.list()?;
                while self.item()? {
                    self.pass(depth - 1)?;
                }
                Ok(())
            }
            b'"' => self.text().map(drop),
            b't' | b'f' => self.flag().map(drop),
            b'n' if self.null() => Ok(()),
            _ => self.token().map(drop),
        }
    }
}

/// A value as a tree.
#[cfg(any(feature = "reference", feature = "export"))]
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums, reason = "JSON has no more")]
pub enum Json {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number as it was written.
    Number(String),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Object(Vec<(String, Self)>),
}

#[cfg(any(feature = "reference", feature = "export"))]
impl Json {
    /// A whole text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader::new(text);
        let value = reader.value(DEEPEST)?;
        reader.end()?;
        Ok(value)
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// True or false.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(x) = self { Some(*x) } else { None }
    }

    /// A number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        if let Self::Number(text) = self { Some(crate::decimal::parse(text)) } else { None }
    }

    /// A whole number that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        if let Self::Number(text) = self { text.parse().ok() } else { None }
    }

    /// A string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// A list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    /// An object.
    #[must_use]
    pub fn as_object(&self) -> Option<&[(String, Self)]> {
        if let Self::Object(entries) = self { Some(entries) } else { None }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Null => out.null(),
            Self::Bool(x) => out.flag(*x),
            Self::Number(text) => out.plain(text),
            Self::Text(text) => out.text(text),
            Self::List(list) => {
                out.list();
                list.iter().for_each(|x| x.write(out));
                out.end_list();
            }
            Self::Object(entries) => {
                out.object();
                entries.iter().for_each(|(key, x)| x.write(out.key(key)));
                out.end_object();
            }
        }
    }
}

#[cfg(any(feature = "reference", feature = "export"))]
impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = Writer::default();
        self.write(&mut out);
        f.write_str(&out.finish())
    }
}

#[cfg(any(feature = "reference", feature = "export"))]
impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Json> {
        if depth == 0 {
            return self.fail("too many values within values");
        }
        Ok(match self.peek() {
            b'{' => {
                let mut entries = Vec::new();
                self.object()?;
                while let Some(key) = self.key()? {
                    entries.push((key, self.value(depth - 1)?));
                }
                Json::Object(entries)
            }
            b'[' => {
                let mut list = Vec::new();
                self.list()?;
                while self.item()? {
                    list.push(self.value(depth - 1)?);
                }
                Json::List(list)
            }
            b'"' => Json::Text(self.text()?),
            b't' | b'f' => Json::Bool(self.flag()?),
            b'n' if self.null() => Json::Null,
            _ => {
                let from = self.at;
                self.number()?;
                Json::Number(self.text[from..self.at].to_string())
            }
        })
    }
}

#[cfg(feature = "reference")]
impl From<&serde_json::Value> for Json {
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(x) => Self::Bool(*x),
            serde_json::Value::Number(x) => Self::Number(x.to_string()),
            serde_json::Value::String(text) => Self::Text(text.clone()),
            serde_json::Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            serde_json::Value::Object(map) => Self::Object(entries(map)),
        }
    }
}

/// The entries of an object.
#[cfg(feature = "reference")]
pub(crate) fn entries(map: &serde_json::Map<String, serde_json::Value>) -> Vec<(String, Json)> {
    map.iter().map(|(key, value)| (key.clone(), value.into())).collect()
}

#[cfg(feature = "export")]
impl From<Json> for serde_json::Value {
    fn from(json: Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(x) => Self::Bool(x),
            Json::Number(text) => match text.parse::<u64>() {
                Ok(x) => x.into(),
                Err(_) => crate::decimal::parse(&text).into(),
            },
            Json::Text(text) => Self::String(text),
            Json::List(list) => Self::Array(list.into_iter().map(Self::from).collect()),
            Json::Object(entries) => {
                Self::Object(entries.into_iter().map(|(key, x)| (key, x.into())).collect())
            }
        }
    }
}
