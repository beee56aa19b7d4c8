//! Operations that are one use of a key: what they ask of it is told apart from the asking. So
//! several items of a batch look a key up once, and the token is asked once for them. Enter through
//! [`once`] and [`each`].

use km_core::{
    material::ClearBytes,
    usage::{Action, KeyKind, KeyUse},
};
use kmip::{Answer, Operation};

use crate::{
    context::Context,
    error::OpError,
    streams::Input,
    usage::{Subject, Use},
};

/// What an operation asks of a key, and what makes its answer of the result.
pub(crate) struct Asked {
    kind: KeyKind,
    one: KeyUse,
    answer: Answering,
}

type Answering = Box<dyn FnOnce(&Context<'_>, ClearBytes) -> Answer + Send>;

/// What an operation came to before the key does anything.
pub(crate) enum Step {
    /// It needs no more.
    Done(Answer),
    /// It needs the key.
    Asks(Asked),
}

impl Step {
    pub(crate) fn done(answer: impl Into<Answer>) -> Self {
        Self::Done(answer.into())
    }

    pub(crate) fn asks<A: Into<Answer>>(
        kind: KeyKind,
        action: Action,
        input: ClearBytes,
        answer: impl FnOnce(&Context<'_>, ClearBytes) -> A + Send + 'static,
    ) -> Self {
        let answer: Answering = Box::new(move |cx, result| answer(cx, result).into());
        Self::Asks(Asked { kind, one: KeyUse { action, input }, answer })
    }
}

/// An operation that is one use of a key.
pub(crate) trait OneUse: Sized + Send {
    /// What the key must allow.
    const USE: Use;
    /// What the request says, once its place in a stream is known.
    type Said: Send;

    fn begin(self, cx: &Context<'_>) -> impl Future<Output = Result<Self::Said, OpError>> + Send;

    fn input(said: &Self::Said) -> &Input;

    /// What it asks of `subject`; what it takes off Usage Limits is taken then.
    fn prepare(
        cx: &Context<'_>,
        subject: &Subject,
        said: Self::Said,
    ) -> impl Future<Output = Result<Step, OpError>> + Send;
}

/// Does one such operation.
pub(crate) async fn once<R: OneUse>(cx: &Context<'_>, request: R) -> Result<Answer, OpError> {
    let said = request.begin(cx).await?;
    let input = R::input(&said);
    let parameters = input.said.parameters.as_deref().cloned();
    let subject = Subject::find(cx, input.key(), parameters, R::USE).await?;
    match R::prepare(cx, &subject, said).await? {
        Step::Done(answer) => Ok(answer),
        Step::Asks(Asked { kind, one, answer }) => {
            let done = subject.act(cx, kind, &one.action, &one.input).await?;
            Ok(answer(cx, done))
        }
    }
}

/// Does operations that ask the same of one key, which was found fit for it and has no Usage Limits;
/// their answers in the same order.
pub(crate) async fn each(
    cx: &Context<'_>,
    subject: &Subject,
    operations: Vec<Operation>,
) -> Vec<Result<Answer, OpError>> {
    let mut answers: Vec<Option<Result<Answer, OpError>>> = Vec::with_capacity(operations.len());
    let (mut of, mut uses, mut makers) = (None, Vec::new(), Vec::new());
    for operation in operations {
        answers.push(match prepared(cx, subject, operation).await {
            Ok(Step::Done(answer)) => Some(Ok(answer)),
            Ok(Step::Asks(Asked { kind, one, answer })) => {
                of = Some(kind);
                uses.push(one);
                makers.push(answer);
                None
            }
            Err(error) => Some(Err(error)),
        });
    }
    let results = match of {
        Some(kind) => subject.act_each(cx, kind, uses).await,
        None => Vec::new(),
    };
    let mut results = makers.into_iter().zip(results);
    let mut made = || match results.next() {
        Some((answer, Ok(result))) => Ok(answer(cx, result)),
        Some((_, Err(error))) => Err(error),
        None => Err(OpError::Operation),
    };
    answers.into_iter().map(|answer| answer.unwrap_or_else(&mut made)).collect()
}

async fn prepared(
    cx: &Context<'_>,
    subject: &Subject,
    operation: Operation,
) -> Result<Step, OpError> {
    async fn of<R: OneUse>(
        cx: &Context<'_>,
        subject: &Subject,
        request: R,
    ) -> Result<Step, OpError> {
        let said = request.begin(cx).await?;
        R::prepare(cx, subject, said).await
    }
    match operation {
        Operation::Encrypt(request) => of(cx, subject, *request).await,
        Operation::Decrypt(request) => of(cx, subject, *request).await,
        Operation::Sign(request) => of(cx, subject, *request).await,
        Operation::Mac(request) => of(cx, subject, *request).await,
        _ => Err(OpError::Operation),
    }
}
