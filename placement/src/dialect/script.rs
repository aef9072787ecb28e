//! From a script to statements: finds the parts of ours, hands the rest to SQLite untouched.

use sqlparser::ast::{ColumnOption, Expr as SqlExpr, Spanned, Statement as SqlStatement};
use sqlparser::dialect::SQLiteDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::ast::{
    Constraint, DecisionColumn, Deferral, Goal, Literal, Query, Sense, Statement, View,
};
use super::lower::Lowering;
use super::split::{Piece, split};
use super::{NESTING_MAX, OPERATORS_MAX, TOKENS_MAX};
use crate::error::{Error, ErrorKind, Place, Result, Source};

/// The prefix of decision columns.
pub const DECISION_PREFIX: &str = "controllable__";

/// Parses a script. The first error ends it.
pub fn parse(text: &str, source: Source) -> Result<Vec<Statement>> {
    if text.contains('\0') {
        return Err(Error::at(
            ErrorKind::Syntax,
            Place::start(source),
            "a NUL character",
        ));
    }
    let mut statements = Vec::new();
    for piece in split(text, source) {
        if let Some(statement) = parse_piece(piece)? {
            statements.push(statement);
        }
    }
    Ok(statements)
}

/// The first `n` words of a statement, upper-cased; comments between them are not expected.
fn leading_words(text: &str, n: usize) -> Vec<String> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|w| !w.is_empty())
        .take(n)
        .map(str::to_ascii_uppercase)
        .collect()
}

fn parse_piece(piece: Piece<'_>) -> Result<Option<Statement>> {
    let words = leading_words(piece.text, 5);
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    let object = match word(0) {
        "CREATE" => words
            .iter()
            .skip(1)
            .find(|w| {
                !matches!(
                    w.as_str(),
                    "OR" | "REPLACE" | "TEMP" | "TEMPORARY" | "UNIQUE"
                )
            })
            .map_or("", String::as_str),
        _ => "",
    };
    match (word(0), object) {
        ("CREATE", "TABLE") => parse_table(piece).map(Some),
        ("CREATE", "VIEW") => Tokens::read(piece)?.view().map(Some),
        ("CREATE", "CONSTRAINT") => Tokens::read(piece)?.constraint().map(Some),
        ("CREATE", "INDEX") | ("INSERT" | "REPLACE" | "UPDATE" | "DELETE", _) => {
            Ok(Some(Statement::Data {
                place: piece.place,
                sql: piece.text.to_owned(),
            }))
        }
        // A dump by the sqlite3 shell opens and closes with these; one load is one transaction anyway.
        ("BEGIN" | "COMMIT" | "END", _) => Ok(None),
        ("PRAGMA", _) if word(1).eq_ignore_ascii_case("foreign_keys") => Ok(None),
        ("CREATE", _) => Err(Error::at(
            ErrorKind::Syntax,
            piece.place,
            "expected TABLE, VIEW, INDEX or CONSTRAINT after CREATE",
        )),
        (first, _) => {
            let shown: String = if first.is_empty() {
                piece.text.chars().take(20).collect()
            } else {
                first.chars().take(40).collect()
            };
            Err(Error::at(
                ErrorKind::Syntax,
                piece.place,
                format!("expected a statement (CREATE …, INSERT, UPDATE, DELETE), found {shown:?}"),
            ))
        }
    }
}

/// Where `location`, counted from the start of a piece, stands in the whole text.
pub(super) fn absolute(base: Place, location: Location) -> Place {
    let line = u32::try_from(location.line).unwrap_or(u32::MAX);
    let column = u32::try_from(location.column).unwrap_or(u32::MAX);
    match line {
        0 => base,
        1 => Place {
            column: base.column + column.max(1) - 1,
            ..base
        },
        _ => Place {
            line: base.line + line - 1,
            column: column.max(1),
            ..base
        },
    }
}

/// Turns a parser's message, which ends in "at Line: l, Column: c", into an error with its place.
fn parser_error(base: Place, fallback: Place, error: ParserError) -> Error {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            let message = format!("nested deeper than {NESTING_MAX} levels");
            return Error::at(ErrorKind::Limit, fallback, message);
        }
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
    };
    let Some(index) = message.rfind(" at Line: ") else {
        return Error::at(ErrorKind::Syntax, fallback, message);
    };
    let mut numbers = message[index..]
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse::<u64>().ok());
    let place = match (numbers.next(), numbers.next()) {
        (Some(line), Some(column)) => absolute(base, Location { line, column }),
        _ => fallback,
    };
    Error::at(ErrorKind::Syntax, place, &message[..index])
}

fn tokenize(piece: Piece<'_>) -> Result<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&SQLiteDialect {}, piece.text)
        .tokenize_with_location()
        .map_err(|e| {
            Error::at(
                ErrorKind::Syntax,
                absolute(piece.place, e.location),
                e.message,
            )
        })?;
    let tokens: Vec<_> = tokens
        .into_iter()
        .filter(|t| !matches!(t.token, Token::Whitespace(_)))
        .collect();
    if tokens.len() > TOKENS_MAX {
        let message = format!("a statement of more than {TOKENS_MAX} tokens");
        return Err(Error::at(ErrorKind::Limit, piece.place, message));
    }
    let mut operators = 0;
    for t in &tokens {
        let counts = match &t.token {
            Token::Word(w) => matches!(
                w.keyword,
                Keyword::AND
                    | Keyword::OR
                    | Keyword::NOT
                    | Keyword::IS
                    | Keyword::UNION
                    | Keyword::EXCEPT
                    | Keyword::INTERSECT
                    | Keyword::BETWEEN
                    | Keyword::LIKE
                    | Keyword::COLLATE
                    | Keyword::IN
                    | Keyword::JOIN
            ),
            Token::Comma | Token::SemiColon | Token::Period | Token::LParen | Token::RParen => {
                false
            }
            Token::Number(..) | Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) => {
                false
            }
            _ => true,
        };
        operators += usize::from(counts);
        if operators > OPERATORS_MAX {
            let message = format!("a statement of more than {OPERATORS_MAX} operators");
            return Err(Error::at(
                ErrorKind::Limit,
                absolute(piece.place, t.span.start),
                message,
            ));
        }
    }
    Ok(tokens)
}

fn is_decision(name: &str) -> bool {
    name.len() > DECISION_PREFIX.len()
        && name.is_char_boundary(DECISION_PREFIX.len())
        && name[..DECISION_PREFIX.len()].eq_ignore_ascii_case(DECISION_PREFIX)
}

/// CREATE TABLE: only a table with decision columns needs more than SQLite's catalogue.
fn parse_table(piece: Piece<'_>) -> Result<Statement> {
    let mut decisions = Vec::new();
    let mut name = String::new();
    if piece.text.to_ascii_lowercase().contains(DECISION_PREFIX) {
        let tokens = tokenize(piece)?;
        let statement = Parser::new(&SQLiteDialect {})
            .with_recursion_limit(NESTING_MAX)
            .with_tokens_with_locations(tokens)
            .parse_statement()
            .map_err(|e| parser_error(piece.place, piece.place, e))?;
        let SqlStatement::CreateTable(table) = statement else {
            return Err(Error::at(
                ErrorKind::Syntax,
                piece.place,
                "expected CREATE TABLE",
            ));
        };
        if table.query.is_some() {
            let message = "CREATE TABLE AS SELECT with decision columns";
            return Err(Error::at(ErrorKind::Unsupported, piece.place, message));
        }
        name = table.name.to_string();
        let lowering = Lowering::new(piece.place);
        for column in &table.columns {
            if !is_decision(&column.name.value) {
                continue;
            }
            let mut decision = DecisionColumn {
                name: column.name.value.clone(),
                place: absolute(piece.place, column.name.span.start),
                nullable: false,
                listed: None,
            };
            for option in &column.options {
                match &option.option {
                    ColumnOption::Null => decision.nullable = true,
                    ColumnOption::Check(check) => {
                        decision.listed = listed(&lowering, &column.name.value, &check.expr)?;
                    }
                    _ => {}
                }
            }
            decisions.push(decision);
        }
        for constraint in &table.constraints {
            if let sqlparser::ast::TableConstraint::Check(check) = constraint {
                for decision in decisions.iter_mut().filter(|d| d.listed.is_none()) {
                    decision.listed = listed(&lowering, &decision.name, &check.expr)?;
                }
            }
        }
    }
    Ok(Statement::Table {
        name,
        place: piece.place,
        sql: piece.text.to_owned(),
        decisions,
    })
}

/// The literals of `CHECK (column IN (…))`; any other CHECK is SQLite's.
fn listed(lowering: &Lowering, column: &str, check: &SqlExpr) -> Result<Option<Vec<Literal>>> {
    match check {
        SqlExpr::Nested(inner) => listed(lowering, column, inner),
        SqlExpr::InList {
            expr,
            list,
            negated: false,
        } => match &**expr {
            SqlExpr::Identifier(ident) if ident.value.eq_ignore_ascii_case(column) => list
                .iter()
                .map(|item| lowering.literal(item))
                .collect::<Result<_>>()
                .map(Some),
            _ => Ok(None),
        },
        other => {
            // A CHECK that SQLite would apply to the present value only would be dropped for the decision.
            let text = other.to_string();
            if text
                .to_ascii_lowercase()
                .contains(&column.to_ascii_lowercase())
            {
                let place = lowering.place(other.span());
                let message = format!("CHECK {text} on a decision column; write a CONSTRAINT");
                return Err(Error::at(ErrorKind::Unsupported, place, message));
            }
            Ok(None)
        }
    }
}

/// The tokens of one statement of ours.
struct Tokens<'a> {
    piece: Piece<'a>,
    tokens: Vec<TokenWithSpan>,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn read(piece: Piece<'a>) -> Result<Tokens<'a>> {
        Ok(Tokens {
            piece,
            tokens: tokenize(piece)?,
            at: 0,
        })
    }

    fn word_at(&self, index: usize) -> Option<&str> {
        match &self.tokens.get(index)?.token {
            Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    fn place_at(&self, index: usize) -> Place {
        match self.tokens.get(index).or(self.tokens.last()) {
            Some(t) if index < self.tokens.len() => absolute(self.piece.place, t.span.start),
            Some(t) => absolute(self.piece.place, t.span.end),
            None => self.piece.place,
        }
    }

    fn accept(&mut self, word: &str) -> bool {
        let hit = self
            .word_at(self.at)
            .is_some_and(|w| w.eq_ignore_ascii_case(word));
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        if self.accept(word) {
            return Ok(());
        }
        Err(self.unexpected(word))
    }

    fn unexpected(&self, wanted: &str) -> Error {
        let found = match self.tokens.get(self.at) {
            Some(t) => format!("found {}", t.token),
            None => "the statement ends".to_owned(),
        };
        let message = format!("expected {wanted}, {found}");
        Error::at(ErrorKind::Syntax, self.place_at(self.at), message)
    }

    fn name(&mut self) -> Result<String> {
        match self.tokens.get(self.at).map(|t| &t.token) {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word.value.clone())
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// The source text from token `from` up to token `to`.
    fn text(&self, from: usize, to: usize) -> String {
        let offset = |index: usize| -> usize {
            let Some(token) = self.tokens.get(index) else {
                return self.piece.text.len();
            };
            byte_offset(self.piece.text, token.span.start)
        };
        self.piece
            .text
            .get(offset(from)..offset(to))
            .unwrap_or_default()
            .trim_end()
            .to_owned()
    }

    fn parser(&self, from: usize, to: usize) -> Parser<'static> {
        Parser::new(&SQLiteDialect {})
            .with_recursion_limit(NESTING_MAX)
            .with_tokens_with_locations(self.tokens[from..to].to_vec())
    }

    /// Parses tokens `from..to` as a query, all of them.
    fn query(&self, from: usize, to: usize) -> Result<Query> {
        let place = self.place_at(from);
        let mut parser = self.parser(from, to);
        let query = parser
            .parse_query()
            .map_err(|e| parser_error(self.piece.place, place, e))?;
        self.exhausted(&mut parser, to)?;
        let mut lowered = Lowering::new(self.piece.place).query(&query);
        lowered.place = place;
        lowered.sql = self.text(from, to);
        Ok(lowered)
    }

    fn exhausted(&self, parser: &mut Parser<'_>, end: usize) -> Result<()> {
        let rest = parser.next_token();
        if rest.token == Token::EOF {
            return Ok(());
        }
        let place = match rest.span.start.line {
            0 => self.place_at(end),
            _ => absolute(self.piece.place, rest.span.start),
        };
        Err(Error::at(
            ErrorKind::Syntax,
            place,
            format!("unexpected {}", rest.token),
        ))
    }

    /// CREATE [TEMP] VIEW [IF NOT EXISTS] name [(columns)] AS query
    fn view(mut self) -> Result<Statement> {
        self.expect("CREATE")?;
        let _ = self.accept("TEMP") || self.accept("TEMPORARY");
        if self
            .word_at(self.at)
            .is_some_and(|w| w.eq_ignore_ascii_case("OR"))
        {
            let message = "CREATE OR REPLACE VIEW; give the view another name";
            return Err(Error::at(
                ErrorKind::Unsupported,
                self.place_at(self.at),
                message,
            ));
        }
        self.expect("VIEW")?;
        if self.accept("IF") {
            self.expect("NOT")?;
            self.expect("EXISTS")?;
        }
        let name = self.name()?;
        let mut columns = None;
        if self
            .tokens
            .get(self.at)
            .is_some_and(|t| t.token == Token::LParen)
        {
            self.at += 1;
            let mut names = Vec::new();
            loop {
                names.push(self.name()?);
                let token = self.tokens.get(self.at).map(|t| t.token.clone());
                self.at += 1;
                match token {
                    Some(Token::Comma) => {}
                    Some(Token::RParen) => break,
                    _ => {
                        self.at -= 1;
                        return Err(self.unexpected("a comma or )"));
                    }
                }
            }
            columns = Some(names);
        }
        self.expect("AS")?;
        let query_place = self.place_at(self.at);
        let query = self.query(self.at, self.tokens.len())?;
        Ok(Statement::View(View {
            name,
            place: self.piece.place,
            columns,
            query,
            query_place,
        }))
    }

    /// The index of the CHECK, MINIMIZE or MAXIMIZE that stands outside of parentheses.
    fn goal_at(&self) -> Result<usize> {
        let mut depth = 0usize;
        let mut found = None;
        for index in self.at..self.tokens.len() {
            match &self.tokens[index].token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                Token::Word(word) if depth == 0 && word.quote_style.is_none() => {
                    let goal = ["CHECK", "MINIMIZE", "MAXIMIZE"]
                        .iter()
                        .any(|g| word.value.eq_ignore_ascii_case(g));
                    if goal && found.is_some() {
                        let message = format!("a second {} in one constraint", word.value);
                        return Err(Error::at(ErrorKind::Syntax, self.place_at(index), message));
                    }
                    if goal {
                        found = Some(index);
                    }
                }
                _ => {}
            }
        }
        found.ok_or_else(|| {
            let place = self.place_at(self.tokens.len());
            let message = "expected CHECK, MINIMIZE or MAXIMIZE; without them write CREATE VIEW";
            Error::at(ErrorKind::Syntax, place, message)
        })
    }

    /// CREATE [OR REPLACE] CONSTRAINT name AS query CHECK … | MINIMIZE … | MAXIMIZE …
    fn constraint(mut self) -> Result<Statement> {
        self.expect("CREATE")?;
        let or_replace = self.accept("OR");
        if or_replace {
            self.expect("REPLACE")?;
        }
        self.expect("CONSTRAINT")?;
        let name = self.name()?;
        self.expect("AS")?;
        let goal_at = self.goal_at()?;
        let query = self.query(self.at, goal_at)?;
        let keyword = self
            .word_at(goal_at)
            .unwrap_or_default()
            .to_ascii_uppercase();
        let expr_place = self.place_at(goal_at + 1);
        let mut parser = self.parser(goal_at + 1, self.tokens.len());
        let expr = parser
            .parse_expr()
            .map_err(|e| parser_error(self.piece.place, expr_place, e))?;
        let expr = Lowering::new(self.piece.place).expr(&expr)?;
        let goal = match keyword.as_str() {
            "CHECK" => {
                let deferrable = match self.take_word(&mut parser, "DEFERRABLE") {
                    true => Deferral::AtEnd,
                    false => Deferral::EachStep,
                };
                Goal::Check { expr, deferrable }
            }
            _ => {
                let mut weight = None;
                let mut tier = None;
                loop {
                    let place = self.parser_place(&parser);
                    if weight.is_none() && self.take_word(&mut parser, "WEIGHT") {
                        weight = Some(self.take_integer(&mut parser, "WEIGHT", 1)?);
                    } else if tier.is_none() && self.take_word(&mut parser, "TIER") {
                        let n = self.take_integer(&mut parser, "TIER", 0)?;
                        tier = Some(u32::try_from(n).map_err(|_| {
                            Error::at(ErrorKind::Syntax, place, "TIER is out of range")
                        })?);
                    } else {
                        break;
                    }
                }
                let sense = match keyword.as_str() {
                    "MINIMIZE" => Sense::Minimize,
                    _ => Sense::Maximize,
                };
                let (weight, tier) = (weight.unwrap_or(1), tier.unwrap_or(0));
                Goal::Objective {
                    sense,
                    expr,
                    weight,
                    tier,
                }
            }
        };
        self.exhausted(&mut parser, self.tokens.len())?;
        let place = self.piece.place;
        Ok(Statement::Constraint(Box::new(Constraint {
            name,
            place,
            or_replace,
            query,
            goal,
        })))
    }

    fn parser_place(&self, parser: &Parser<'_>) -> Place {
        let token = parser.peek_token();
        match token.span.start.line {
            0 => self.place_at(self.tokens.len()),
            _ => absolute(self.piece.place, token.span.start),
        }
    }

    fn take_word(&self, parser: &mut Parser<'_>, word: &str) -> bool {
        let hit = matches!(&parser.peek_token().token,
            Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word));
        if hit {
            parser.next_token();
        }
        hit
    }

    fn take_integer(&self, parser: &mut Parser<'_>, what: &str, least: i64) -> Result<i64> {
        let place = self.parser_place(parser);
        match parser.next_token().token {
            Token::Number(text, _) => match text.parse::<i64>() {
                Ok(n) if n >= least => Ok(n),
                _ => {
                    let message = format!("{what} must be an integer of at least {least}");
                    Err(Error::at(ErrorKind::Syntax, place, message))
                }
            },
            other => {
                let message =
                    format!("{what} must be an integer of at least {least}, found {other}");
                Err(Error::at(ErrorKind::Syntax, place, message))
            }
        }
    }
}

/// The byte offset of a location (line and column in characters, from 1) in `text`.
pub(crate) fn byte_offset(text: &str, location: Location) -> usize {
    let mut line_start = 0;
    for _ in 1..location.line {
        match text[line_start..].find('\n') {
            Some(i) => line_start += i + 1,
            None => return text.len(),
        }
    }
    let skip = usize::try_from(location.column.max(1) - 1).unwrap_or(usize::MAX);
    text[line_start..]
        .char_indices()
        .nth(skip)
        .map_or(text.len(), |(i, _)| line_start + i)
}
