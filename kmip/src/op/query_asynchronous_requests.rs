//! Query Asynchronous Requests: which operations wait to be polled. (KMIP 2.1, 6.1)

use crate::enums::{OperationCode, ProcessingStage};
use crate::wire::{DateTimeExtended, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// Only these; absent means all.
        values: opt Values = AsynchronousCorrelationValues @ V2_1,
        /// Only of these operations; absent means all.
        operations: opt Operations = Operations @ V2_1,
    }
}

wire_struct! {
    /// A list of Asynchronous Correlation Values.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Values {
        /// The values.
        list: many Vec<u8> = AsynchronousCorrelationValue @ V2_1,
    }
}

wire_struct! {
    /// A list of operations.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Operations {
        /// The operations.
        list: many OperationCode = Operation @ V2_0,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Response {
        /// One for each.
        requests: many AsynchronousRequest = AsynchronousRequest @ V2_1,
    }
}

wire_struct! {
    /// How far one operation is.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AsynchronousRequest {
        /// Its Asynchronous Correlation Value.
        correlation_value: one Vec<u8> = AsynchronousCorrelationValue @ V2_1,
        /// What it is.
        operation: one OperationCode = Operation @ V2_1,
        /// When it was asked for.
        submitted: one DateTimeExtended = SubmissionDate @ V2_1,
        /// How far it is.
        stage: one ProcessingStage = ProcessingStage @ V2_1,
    }
}
