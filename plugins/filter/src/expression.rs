//! Expressions: `status == "active" && amount > 100`.
//!
//! ```text
//! or     = and, { ("||" | "or"), and }
//! and    = not, { ("&&" | "and"), not }
//! not    = ("!" | "not"), not | test
//! test   = "(", or, ")" | "true" | "false"
//!        | operand, [ ("==" | "=" | "!=" | "<>" | "<" | "<=" | ">" | ">="), operand
//!                   | ["not"], "in", "(", literal, { ",", literal }, ")"
//!                   | "is", ["not"], "null" ]
//! ```
//!
//! An operand is a column (bare, or in backticks), a text in quotes, a number, `true`,
//! `false`, or one of the words `op`, `table`, `schema`, which say what the row is a change
//! of. Nothing is known of types here. What can go wrong is told with its column.

use kasho_plugin_sdk::{Col, Op, Result};

use crate::lexer::{Word, words, wrong};

/// Parentheses and negations within one another.
const DEPTH: usize = 64;

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Cmp {
    /// Whether it holds for two things that stand so.
    pub(crate) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Cmp::Eq => order.is_eq(),
            Cmp::Ne => order.is_ne(),
            Cmp::Lt => order.is_lt(),
            Cmp::Le => order.is_le(),
            Cmp::Gt => order.is_gt(),
            Cmp::Ge => order.is_ge(),
        }
    }

    /// Whether it asks for an order, and not for equality alone.
    pub(crate) fn orders(self) -> bool {
        !matches!(self, Cmp::Eq | Cmp::Ne)
    }

    /// The same with its sides changed.
    fn turned(self) -> Cmp {
        match self {
            Cmp::Lt => Cmp::Gt,
            Cmp::Le => Cmp::Ge,
            Cmp::Gt => Cmp::Lt,
            Cmp::Ge => Cmp::Le,
            same => same,
        }
    }
}

/// A declared column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) col: Col,
    pub(crate) name: String,
}

/// What a row is a change of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Op,
    Table,
    Schema,
}

/// A constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Literal {
    Text(String),
    Number(String),
    Bool(bool),
    /// As JSON has it: what it is, the column decides.
    Loose(String),
}

/// What a column is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// How it stands to a constant.
    Compare(Cmp, Literal),
    /// How it stands to another column.
    Columns(Cmp, Column),
    /// Whether it is one of these.
    In(Vec<Literal>),
    /// Whether it is NULL.
    Null,
    /// Whether it is true.
    True,
}

/// A condition, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    Const(bool),
    Column(Column, Ask),
    /// Whether a fact is one of these texts.
    Fact(Fact, Vec<String>),
    All(Vec<Expr>),
    Any(Vec<Expr>),
    /// SQL's NOT.
    Not(Box<Expr>),
    /// SQL's IS NOT TRUE: true where the other is false or unknown.
    NotTrue(Box<Expr>),
}

impl Expr {
    /// SQL's NOT.
    pub(crate) fn not(self) -> Expr {
        Expr::Not(Box::new(self))
    }
}

/// Reads an expression; `column` declares a column.
///
/// # Errors
/// What is wrong with it, and at which column.
pub(crate) fn parse(text: &str, column: &mut dyn FnMut(&str) -> Result<Col>) -> Result<Expr> {
    let mut parser = Parser { words: words(text)?, next: 0, depth: 0, column };
    let expr = parser.or()?;
    match parser.peek() {
        Word::End => Ok(expr),
        word => Err(wrong(parser.at(), format!("{word} where `&&`, `||` or the end was due"))),
    }
}

enum Operand {
    Column(Column),
    Fact(Fact),
    Literal(Literal),
}

struct Parser<'c> {
    words: Vec<(usize, Word)>,
    next: usize,
    depth: usize,
    column: &'c mut dyn FnMut(&str) -> Result<Col>,
}

impl Parser<'_> {
    fn peek(&self) -> &Word {
        self.words.get(self.next).map_or(&Word::End, |(_, word)| word)
    }

    fn at(&self) -> usize {
        self.words.get(self.next).or(self.words.last()).map_or(1, |(at, _)| *at)
    }

    fn take(&mut self) -> (usize, Word) {
        let word = (self.at(), self.peek().clone());
        self.next += 1;
        word
    }

    /// Takes the sign or the keyword if it comes next.
    fn has(&mut self, sign: &str) -> bool {
        let is = match self.peek() {
            Word::Sign(found) => *found == sign,
            Word::Name(name) => name.eq_ignore_ascii_case(sign),
            _ => false,
        };
        self.next += usize::from(is);
        is
    }

    fn must(&mut self, sign: &str) -> Result<()> {
        match self.has(sign) {
            true => Ok(()),
            false => Err(wrong(self.at(), format!("`{sign}` was due, not {}", self.peek()))),
        }
    }

    fn or(&mut self) -> Result<Expr> {
        let mut all = vec![self.and()?];
        while self.has("||") || self.has("or") {
            all.push(self.and()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expr::Any(all) })
    }

    fn and(&mut self) -> Result<Expr> {
        let mut all = vec![self.not()?];
        while self.has("&&") || self.has("and") {
            all.push(self.not()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expr::All(all) })
    }

    fn not(&mut self) -> Result<Expr> {
        let at = self.at();
        let bang = self.has("!");
        if !bang && !self.has("not") {
            return self.test();
        }
        self.deeper(at)?;
        let alone = matches!(self.peek(), Word::Sign("(" | "!"));
        let inner = self.not()?;
        self.depth -= 1;
        // C reads `!a == b` as `(!a) == b`, SQL `NOT a = b` as `NOT (a = b)`.
        let compares = !matches!(inner, Expr::Const(_) | Expr::Column(_, Ask::True));
        if bang && !alone && compares {
            return Err(wrong(at, "`!` before a comparison: put that in parentheses"));
        }
        Ok(inner.not())
    }

    fn deeper(&mut self, at: usize) -> Result<()> {
        self.depth += 1;
        match self.depth > DEPTH {
            true => {
                Err(wrong(at, format!("more than {DEPTH} levels of parentheses: write it flatter")))
            }
            false => Ok(()),
        }
    }

    fn test(&mut self) -> Result<Expr> {
        let at = self.at();
        if self.has("(") {
            self.deeper(at)?;
            let expr = self.or()?;
            self.must(")")?;
            self.depth -= 1;
            return Ok(expr);
        }
        let left = self.operand()?;
        if let Some(cmp) = self.cmp() {
            let right = self.operand()?;
            return compare(at, left, cmp, right);
        }
        let negated = matches!(self.peek(), Word::Name(name) if name.eq_ignore_ascii_case("not"));
        if negated {
            self.next += 1;
        }
        if self.has("in") {
            let test = self.list(at, left)?;
            return Ok(if negated { test.not() } else { test });
        }
        if negated {
            return Err(wrong(self.at(), format!("`in` was due, not {}", self.peek())));
        }
        if self.has("is") {
            let not = self.has("not");
            self.must("null")?;
            let Operand::Column(column) = left else {
                return Err(wrong(at, "only a column can be null: write `column is null`"));
            };
            let test = Expr::Column(column, Ask::Null);
            return Ok(if not { test.not() } else { test });
        }
        match left {
            Operand::Column(column) => Ok(Expr::Column(column, Ask::True)),
            Operand::Literal(Literal::Bool(truth)) => Ok(Expr::Const(truth)),
            _ => Err(wrong(self.at(), format!("a comparison was due, not {}", self.peek()))),
        }
    }

    fn cmp(&mut self) -> Option<Cmp> {
        let Word::Sign(sign) = self.peek() else { return None };
        let cmp = match *sign {
            "==" => Cmp::Eq,
            "!=" => Cmp::Ne,
            "<" => Cmp::Lt,
            "<=" => Cmp::Le,
            ">" => Cmp::Gt,
            ">=" => Cmp::Ge,
            _ => return None,
        };
        self.next += 1;
        Some(cmp)
    }

    fn list(&mut self, at: usize, left: Operand) -> Result<Expr> {
        self.must("(")?;
        let mut list = Vec::new();
        loop {
            let place = self.at();
            match self.operand()? {
                Operand::Literal(literal) => list.push((place, literal)),
                _ => return Err(wrong(place, "a list holds texts, numbers, true and false")),
            }
            if !self.has(",") {
                break;
            }
        }
        self.must(")")?;
        match left {
            Operand::Column(column) => {
                let list = list.into_iter().map(|(_, literal)| literal).collect();
                Ok(Expr::Column(column, Ask::In(list)))
            }
            Operand::Fact(fact) => {
                let texts = list.into_iter().map(|(place, literal)| text_of(fact, place, literal));
                Ok(Expr::Fact(fact, texts.collect::<Result<_>>()?))
            }
            Operand::Literal(_) => Err(wrong(at, "before `in` stands a column, not a constant")),
        }
    }

    fn operand(&mut self) -> Result<Operand> {
        let (at, word) = self.take();
        let literal = |literal| Ok(Operand::Literal(literal));
        match word {
            Word::Text(text) => literal(Literal::Text(text)),
            Word::Number(number) => literal(Literal::Number(number)),
            Word::Sign("-") => match self.take() {
                (_, Word::Number(number)) => literal(Literal::Number(format!("-{number}"))),
                (at, word) => Err(wrong(at, format!("a number was due after `-`, not {word}"))),
            },
            Word::Quoted(name) => self.named(name),
            Word::Name(name) => match name.to_ascii_lowercase().as_str() {
                "true" => literal(Literal::Bool(true)),
                "false" => literal(Literal::Bool(false)),
                "null" => Err(wrong(at, "nothing compares with NULL: write `is null`")),
                "and" | "or" | "not" | "in" | "is" => {
                    Err(wrong(at, format!("a column or a value was due, not `{name}`")))
                }
                "op" => Ok(Operand::Fact(Fact::Op)),
                "table" => Ok(Operand::Fact(Fact::Table)),
                "schema" => Ok(Operand::Fact(Fact::Schema)),
                _ => self.named(name),
            },
            word => Err(wrong(at, format!("a column or a value was due, not {word}"))),
        }
    }

    fn named(&mut self, name: String) -> Result<Operand> {
        let col = (self.column)(&name)?;
        Ok(Operand::Column(Column { col, name }))
    }
}

fn compare(at: usize, left: Operand, cmp: Cmp, right: Operand) -> Result<Expr> {
    match (left, right) {
        (Operand::Column(column), Operand::Literal(literal)) => {
            Ok(Expr::Column(column, Ask::Compare(cmp, literal)))
        }
        (Operand::Literal(literal), Operand::Column(column)) => {
            Ok(Expr::Column(column, Ask::Compare(cmp.turned(), literal)))
        }
        (Operand::Column(left), Operand::Column(right)) => {
            Ok(Expr::Column(left, Ask::Columns(cmp, right)))
        }
        (Operand::Fact(fact), Operand::Literal(literal))
        | (Operand::Literal(literal), Operand::Fact(fact)) => {
            let test = Expr::Fact(fact, vec![text_of(fact, at, literal)?]);
            match cmp {
                Cmp::Eq => Ok(test),
                Cmp::Ne => Ok(test.not()),
                _ => Err(wrong(
                    at,
                    "`op`, `table` and `schema` have no order: compare them by ==, != or in",
                )),
            }
        }
        (Operand::Literal(_), Operand::Literal(_)) => {
            Err(wrong(at, "this compares two constants: a column's name stands without quotes"))
        }
        _ => Err(wrong(at, "`op`, `table` and `schema` compare with a text in quotes")),
    }
}

/// The text that a fact is compared with.
fn text_of(fact: Fact, at: usize, literal: Literal) -> Result<String> {
    let Literal::Text(text) = literal else {
        return Err(wrong(at, "`op`, `table` and `schema` compare with a text in quotes"));
    };
    if fact == Fact::Op && Op::ALL.iter().all(|op| op.name() != text) {
        let known = Op::ALL.map(|op| op.name()).join(", ");
        return Err(wrong(at, format!("there is no op of this name; there are {known}")));
    }
    Ok(text)
}
