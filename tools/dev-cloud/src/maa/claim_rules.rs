//! Attestation policies: the claim rule grammar, version 1.0, as far as authorization goes.
//!
//! ```text
//! version= 1.0;
//! authorizationrules { [type=="a", value==true, issuer=="AttestationService"] && […] => permit(); … };
//! issuancerules { };
//! ```
//!
//! A condition holds if one claim has every property it names; a rule's conditions must all hold. Rules that issue
//! claims of their own are not played: nothing in Keyfold may rest on them.

use serde_json::Value;
use std::fmt;

/// Who a claim is from: what the evidence shows, or what the caller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Issuer {
    AttestationService,
    CustomClaim,
}

/// What rules are applied to.
pub(super) struct Claim<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a Value,
    pub(super) issuer: Issuer,
}

impl<'a> Claim<'a> {
    /// Claims of one issuer, from a token's members.
    pub(super) fn by(issuer: Issuer) -> impl Fn((&'a String, &'a Value)) -> Self {
        move |(name, value)| Self { name, value, issuer }
    }
}

/// A policy that was well-formed.
#[derive(Debug)]
pub(super) struct Policy(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    conditions: Vec<Condition>,
    permits: bool,
}

/// Properties of one claim.
type Condition = Vec<Property>;

#[derive(Debug)]
enum Property {
    Type(Equality, String),
    Issuer(Equality, String),
    Value(Comparison),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Equality {
    Equal,
    Unequal,
}

#[derive(Debug)]
enum Comparison {
    Text(Equality, String),
    Flag(Equality, bool),
    Number(Operator, i64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Is(Equality),
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Policy {
    /// Reads a policy; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let policy = parser.policy()?;
        match parser.tokens.get(parser.at) {
            None => Ok(policy),
            Some(token) => Err(format!("{token} after the policy's end")),
        }
    }

    /// Whether the claims are permitted: one rule permits them and none denies them.
    pub(super) fn permits(&self, claims: &[Claim]) -> Result<(), String> {
        let met: Vec<_> = self.0.iter().filter(|rule| rule.holds(claims)).collect();
        if met.iter().any(|rule| !rule.permits) {
            return Err("A Deny claim was issued, authorization failed.".into());
        }
        if met.is_empty() {
            return Err("No Permit claim was issued, authorization failed.".into());
        }
        Ok(())
    }
}

impl Rule {
    fn holds(&self, claims: &[Claim]) -> bool {
        self.conditions.iter().all(|condition| {
            claims.iter().any(|claim| condition.iter().all(|property| property.holds(claim)))
        })
    }
}

impl Property {
    fn holds(&self, claim: &Claim) -> bool {
        match self {
            Self::Type(equality, name) => equality.holds(claim.name == name),
            Self::Issuer(equality, name) => equality.holds(format!("{:?}", claim.issuer) == *name),
            Self::Value(comparison) => comparison.holds(claim.value),
        }
    }
}

impl Equality {
    fn holds(self, equal: bool) -> bool {
        equal == (self == Self::Equal)
    }
}

impl Comparison {
    /// A value of another type meets nothing.
    fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(equality, wanted), Value::String(text)) => equality.holds(text == wanted),
            (Self::Flag(equality, wanted), Value::Bool(flag)) => equality.holds(flag == wanted),
            (Self::Number(operator, wanted), Value::Number(number)) => {
                number.as_i64().is_some_and(|number| match operator {
                    Operator::Is(equality) => equality.holds(number == *wanted),
                    Operator::Less => number < *wanted,
                    Operator::LessOrEqual => number <= *wanted,
                    Operator::Greater => number > *wanted,
                    Operator::GreaterOrEqual => number >= *wanted,
                })
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    /// Longest first where one begins another.
    Mark(&'static str),
}

const MARKS: [&str; 18] = [
    "=>", "==", "!=", "<=", ">=", "&&", "<", ">", "=", "[", "]", "{", "}", "(", ")", ",", ";", ":",
];

impl fmt::Display for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => out.write_str(word),
            Self::Text(text) => write!(out, "{text:?}"),
            Self::Mark(mark) => out.write_str(mark),
        }
    }
}

fn tokens(mut text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    loop {
        text = text.trim_start();
        let Some(first) = text.chars().next() else { return Ok(tokens) };
        if let Some(quoted) = text.strip_prefix('"') {
            let (inside, rest) = quoted.split_once('"').ok_or("a text has no end")?;
            tokens.push(Token::Text(inside.to_owned()));
            text = rest;
        } else if let Some(mark) = MARKS.into_iter().find(|mark| text.starts_with(mark)) {
            tokens.push(Token::Mark(mark));
            text = &text[mark.len()..];
        } else {
            let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            let end = text.find(|c| !word(c)).unwrap_or(text.len());
            if end == 0 {
                return Err(format!("{first:?} does not belong here"));
            }
            tokens.push(Token::Word(text[..end].to_owned()));
            text = &text[end..];
        }
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn policy(&mut self) -> Result<Policy, String> {
        self.word("version")?;
        self.mark("=")?;
        self.word("1.0").map_err(|_| "only version 1.0 is known")?;
        self.mark(";")?;
        self.word("authorizationrules")?;
        let mut rules = Vec::new();
        self.mark("{")?;
        while !self.skip("}") {
            rules.push(self.rule()?);
        }
        self.mark(";")?;
        self.word("issuancerules")?;
        self.mark("{")?;
        self.mark("}").map_err(|why| format!("issuance rules are not played here: {why}"))?;
        self.mark(";")?;
        Ok(Policy(rules))
    }

    fn rule(&mut self) -> Result<Rule, String> {
        let mut conditions = Vec::new();
        if !self.skip("=>") {
            conditions.push(self.condition()?);
            while self.skip("&&") {
                conditions.push(self.condition()?);
            }
            self.mark("=>")?;
        }
        let permits = match self.next()? {
            Token::Word(action) if action == "permit" => true,
            Token::Word(action) if action == "deny" => false,
            other => return Err(format!("{other} is neither permit nor deny")),
        };
        for mark in ["(", ")", ";"] {
            self.mark(mark)?;
        }
        Ok(Rule { conditions, permits })
    }

    fn condition(&mut self) -> Result<Condition, String> {
        if let Some(Token::Word(_)) = self.tokens.get(self.at) {
            // A name for the claim, which no rule here refers to.
            self.at += 1;
            self.mark(":")?;
        }
        self.mark("[")?;
        let mut properties = vec![self.property()?];
        while self.skip(",") {
            properties.push(self.property()?);
        }
        self.mark("]")?;
        Ok(properties)
    }

    fn property(&mut self) -> Result<Property, String> {
        let name = self.next()?;
        let operator = match self.next()? {
            Token::Mark("==") => Operator::Is(Equality::Equal),
            Token::Mark("!=") => Operator::Is(Equality::Unequal),
            Token::Mark("<") => Operator::Less,
            Token::Mark("<=") => Operator::LessOrEqual,
            Token::Mark(">") => Operator::Greater,
            Token::Mark(">=") => Operator::GreaterOrEqual,
            other => return Err(format!("{other} is not an operator")),
        };
        let wanted = self.next()?;
        match (&name, operator, wanted) {
            (Token::Word(name), Operator::Is(equality), Token::Text(text)) => match name.as_str() {
                "type" => Ok(Property::Type(equality, text)),
                "issuer" => Ok(Property::Issuer(equality, text)),
                "value" => Ok(Property::Value(Comparison::Text(equality, text))),
                _ => Err(format!("{name} is not a property of claims that is played here")),
            },
            (Token::Word(name), operator, Token::Word(word)) if name == "value" => {
                let comparison = match (word.as_str(), operator) {
                    ("true", Operator::Is(equality)) => Comparison::Flag(equality, true),
                    ("false", Operator::Is(equality)) => Comparison::Flag(equality, false),
                    (number, operator) => {
                        let number = number.parse().map_err(|_| format!("{word} is no value"))?;
                        Comparison::Number(operator, number)
                    }
                };
                Ok(Property::Value(comparison))
            }
            (name, _, wanted) => Err(format!("{name} is not compared so with {wanted}")),
        }
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.tokens.get(self.at).cloned().ok_or("the policy ends too early")?;
        self.at += 1;
        Ok(token)
    }

    fn skip(&mut self, mark: &'static str) -> bool {
        let found = self.tokens.get(self.at) == Some(&Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn mark(&mut self, wanted: &'static str) -> Result<(), String> {
        self.expect(&Token::Mark(wanted))
    }

    fn word(&mut self, wanted: &str) -> Result<(), String> {
        self.expect(&Token::Word(wanted.to_owned()))
    }

    fn expect(&mut self, wanted: &Token) -> Result<(), String> {
        match self.next()? {
            token if token == *wanted => Ok(()),
            other => Err(format!("{other} where {wanted} is expected")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(rules: &str) -> Result<Policy, String> {
        let text = format!(
            "version= 1.0;\nauthorizationrules\n{{\n{rules}\n}};\nissuancerules\n{{\n}};\n"
        );
        Policy::parse(&text)
    }

    fn permitted(rules: &str) -> bool {
        let (text, number, flag) = (json!("x"), json!(7), json!(false));
        let claims = [("text", &text), ("number", &number), ("flag", &flag)]
            .map(|(name, value)| Claim { name, value, issuer: Issuer::AttestationService });
        let said = json!(true);
        let mut claims = Vec::from(claims);
        claims.push(Claim { name: "flag", value: &said, issuer: Issuer::CustomClaim });
        with(rules).unwrap().permits(&claims).is_ok()
    }

    #[test]
    fn conditions() {
        for (condition, expected) in [
            (r#"[type=="text", value=="x"]"#, true),
            (r#"[type=="text", value=="y"]"#, false),
            (r#"[type=="text", value!="y"]"#, true),
            (r#"[type=="text", value!="x"]"#, false),
            (r#"[type=="text"]"#, true),
            (r#"[type=="other"]"#, false),
            (r#"[type=="number", value==7]"#, true),
            (r#"[type=="number", value!=7]"#, false),
            (r#"[type=="number", value<7]"#, false),
            (r#"[type=="number", value<=7]"#, true),
            (r#"[type=="number", value>7]"#, false),
            (r#"[type=="number", value>=7]"#, true),
            (r#"[type=="number", value>=8]"#, false),
            (r#"[type=="number", value=="7"]"#, false),
            (r#"[type=="number", value==true]"#, false),
            (r#"[type=="flag", value==false]"#, true),
            (r#"[type=="flag", value==false, issuer=="AttestationService"]"#, true),
            // The caller's own claim counts where the policy does not ask whose it is.
            (r#"[type=="flag", value==true]"#, true),
            (r#"[type=="flag", value==true, issuer=="AttestationService"]"#, false),
            (r#"[type=="flag", value==true, issuer!="CustomClaim"]"#, false),
            (r#"c:[type=="text"] && [ type == "number" , value > 6 ]"#, true),
            (r#"[type=="text"] && [type=="number", value>7]"#, false),
            (r#"[type=="text"] && [type=="missing"] && [type=="number"]"#, false),
        ] {
            assert_eq!(permitted(&format!("{condition} => permit();")), expected, "{condition}");
        }
    }

    #[test]
    fn one_permit_is_needed_and_one_deny_is_enough() {
        assert!(permitted("=> permit();"));
        assert!(!permitted(""));
        assert!(!permitted("=> deny();"));
        assert!(!permitted("=> permit(); => deny();"));
        assert!(!permitted(r#"[type=="text"] => deny(); => permit();"#));
        assert!(permitted(r#"[type=="missing"] => deny(); [type=="text"] => permit();"#));
        assert!(permitted(r#"[type=="missing"] => permit(); [type=="text"] => permit();"#));
        assert!(!permitted(r#"[type=="missing"] => permit();"#));
    }

    #[test]
    fn malformed_policies_are_refused() {
        for bad in [
            "",
            "version= 1.0;",
            "version= 1.1; authorizationrules { => permit(); }; issuancerules { };",
            "version= 1.0; authorizationrules { => permit(); };",
            "version= 1.0; authorizationrules { => permit(); }; issuancerules { => issue(type=\"a\", value=1); };",
            "version= 1.0; authorizationrules { => permit(); }; issuancerules { }; more",
            "version= 1.0; issuancerules { }; authorizationrules { => permit(); };",
        ] {
            assert!(Policy::parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "=> permit()",
            "permit();",
            "=> issue(type=\"a\", value=1);",
            "[] => permit();",
            r#"[type=="a" => permit();"#,
            r#"[type="a"] => permit();"#,
            r#"[type>"a"] => permit();"#,
            r#"[type==true] => permit();"#,
            r#"[value>="a"] => permit();"#,
            r#"[value>true] => permit();"#,
            r#"[value==maybe] => permit();"#,
            r#"[value==c.value] => permit();"#,
            r#"[color=="a"] => permit();"#,
            r#"[type=="a"] & [type=="b"] => permit();"#,
            r#"[type=="a"] [type=="b"] => permit();"#,
            r#"[type=="a] => permit();"#,
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
