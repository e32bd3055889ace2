//! Models, graphs and functions.

use super::super::lexer::Token;
use super::cursor::{Parsed, Parser};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    ValueInfoProto,
};
use crate::onnx::{IR_VERSION, NEWEST, OUTPUT, SOURCES};

/// How deep bodies may be nested: each level takes stack.
const MAX_DEPTH: usize = 16;

impl Parser<'_> {
    pub(super) fn model(&mut self) -> Parsed<ModelProto> {
        let mut model = ModelProto::default();
        if self.is("<") {
            self.model_header(&mut model)?;
        } else {
            // A graph without a header means the newest operators, and our own.
            model.ir_version = Some(IR_VERSION);
            model.opset_import = vec![
                import("", NEWEST),
                import("octofold", 1),
                import("com.microsoft", 1),
            ];
        }
        self.places.graph = self.at;
        model.graph = Some(self.graph()?);
        while self.is("<") {
            model.functions.push(self.function()?);
        }
        if self.token != Token::End {
            return self.expected("a function or the end of the text");
        }
        Ok(model)
    }

    pub(super) fn model_header(&mut self, model: &mut ModelProto) -> Parsed<()> {
        self.expect("<")?;
        self.list(">", |parser| {
            let at = parser.at;
            let key = parser.name("a key of the model")?;
            parser.expect(":")?;
            match key.as_str() {
                "ir_version" => model.ir_version = Some(parser.int()?),
                "opset_import" => model.opset_import = parser.opset_import()?,
                "producer_name" => model.producer_name = Some(parser.text("a text")?),
                "producer_version" => model.producer_version = Some(parser.text("a text")?),
                "domain" => model.domain = Some(parser.text("a text")?),
                "model_version" => model.model_version = Some(parser.int()?),
                "doc_string" => model.doc_string = Some(parser.text("a text")?),
                "metadata_props" => model.metadata_props = parser.entries()?,
                _ => {
                    return Err(parser
                        .lexer
                        .error(at, format!("`{key}` is no key of a model")));
                }
            }
            Ok(())
        })
    }

    pub(super) fn opset_import(&mut self) -> Parsed<Vec<OperatorSetIdProto>> {
        let mut imports = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            let domain = parser.text("a domain in quotes")?;
            parser.expect(":")?;
            imports.push(import(&domain, parser.int()?));
            Ok(())
        })?;
        Ok(imports)
    }

    /// `["key": "value", …]`
    pub(super) fn entries(&mut self) -> Parsed<Vec<StringStringEntryProto>> {
        let mut entries = Vec::new();
        self.expect("[")?;
        self.list("]", |parser| {
            let key = parser.text("a key in quotes")?;
            parser.expect(":")?;
            entries.push(entry(&key, parser.text("a value in quotes")?));
            Ok(())
        })?;
        Ok(entries)
    }

    pub(super) fn graph(&mut self) -> Parsed<GraphProto> {
        let name = self.name("the name of a graph")?;
        self.graph_named(name)
    }

    /// A body, whose name was passed.
    pub(super) fn body(&mut self, name: &str) -> Parsed<GraphProto> {
        if self.depth == MAX_DEPTH {
            return self.error(format!("graphs are nested deeper than {MAX_DEPTH}"));
        }
        self.depth += 1;
        let body = self.graph_named(name.to_owned());
        self.depth -= 1;
        body
    }

    fn graph_named(&mut self, name: String) -> Parsed<GraphProto> {
        let mut graph = GraphProto {
            name: Some(name),
            ..GraphProto::default()
        };
        self.expect("(")?;
        self.list(")", |parser| {
            let info = parser.declared()?;
            if parser.accept("=")? {
                let tensor = parser.tensor_of(&info)?;
                graph.initializer.push(tensor);
            }
            graph.input.push(info);
            Ok(())
        })?;
        self.expect("=>")?;
        self.expect("(")?;
        let mut annotations = Vec::new();
        self.lexer.take_annotation();
        // As `list`, but an annotation behind the comma belongs to the item before it.
        while !self.accept(")")? {
            let at = self.at;
            let info = self.value_info(false)?;
            if self.depth == 0 {
                self.places.outputs.insert(info.name().to_owned(), at);
            }
            graph.output.push(info);
            if !self.is(")") && !self.accept(",")? {
                return self.expected("`,` or `)`");
            }
            annotations.push(self.lexer.take_annotation());
        }
        for (output, annotation) in graph.output.iter_mut().zip(annotations) {
            let shown = annotation.and_then(|texts| texts.into_iter().next());
            output
                .metadata_props
                .extend(shown.map(|shown| entry(OUTPUT, shown)));
        }
        if self.accept("<")? {
            self.list(">", |parser| {
                let info = parser.declared()?;
                if parser.accept("=")? {
                    let tensor = parser.tensor_of(&info)?;
                    graph.initializer.push(tensor);
                } else {
                    graph.value_info.push(info);
                }
                Ok(())
            })?;
        }
        graph.node = self.nodes(self.depth == 0)?;
        Ok(graph)
    }

    /// A value that is declared with its type.
    fn declared(&mut self) -> Parsed<ValueInfoProto> {
        let at = self.at;
        let info = self.value_info(true)?;
        if self.depth == 0 {
            self.places.values.insert(info.name().to_owned(), at);
        }
        Ok(info)
    }

    pub(super) fn nodes(&mut self, places: bool) -> Parsed<Vec<NodeProto>> {
        self.expect("{")?;
        let mut nodes = Vec::new();
        while !self.accept("}")? {
            let at = self.at;
            self.lexer.take_annotation();
            let mut node = self.node()?;
            if let Some(sources) = self.lexer.take_annotation() {
                node.metadata_props.push(entry(SOURCES, String::new()));
                node.metadata_props
                    .extend(sources.into_iter().map(|source| entry(SOURCES, source)));
            }
            if places {
                // The importer calls a node without a name after its operator and position.
                let name = if node.name().is_empty() {
                    format!("{}_{}", node.op_type(), nodes.len())
                } else {
                    node.name().to_owned()
                };
                self.places.nodes.entry(name).or_insert(at);
                for output in &node.output {
                    self.places.values.insert(output.clone(), at);
                }
            }
            nodes.push(node);
        }
        Ok(nodes)
    }

    pub(super) fn function(&mut self) -> Parsed<FunctionProto> {
        self.count()?;
        let mut function = FunctionProto::default();
        self.expect("<")?;
        self.list(">", |parser| {
            let at = parser.at;
            let key = parser.name("a key of the function")?;
            parser.expect(":")?;
            match key.as_str() {
                "domain" => function.domain = Some(parser.text("a domain in quotes")?),
                "opset_import" => function.opset_import = parser.opset_import()?,
                "overload" => function.overload = Some(parser.text("a text")?),
                "doc_string" => function.doc_string = Some(parser.text("a text")?),
                "metadata_props" => function.metadata_props = parser.entries()?,
                _ => {
                    return Err(parser
                        .lexer
                        .error(at, format!("`{key}` is no key of a function")));
                }
            }
            Ok(())
        })?;
        function.name = Some(self.name("the name of a function")?);
        if self.accept("<")? {
            self.list(">", |parser| {
                let name = parser.name("the name of an attribute")?;
                if parser.is(":") || parser.is("=") {
                    // With a default; the type is that of the value.
                    let mut typed = None;
                    if parser.accept(":")? {
                        typed = Some(parser.name("the type of an attribute")?);
                    }
                    if parser.accept("=")? {
                        let declared =
                            (typed.as_deref() == Some("float")).then_some(AttributeType::Float);
                        let mut proto = parser.attribute_value(declared)?;
                        proto.name = Some(name);
                        function.attribute_proto.push(proto);
                        return Ok(());
                    }
                }
                function.attribute.push(name);
                Ok(())
            })?;
        }
        function.input = self.function_values()?;
        self.expect("=>")?;
        function.output = self.function_values()?;
        if self.accept("<")? {
            self.list(">", |parser| parser.value_info(true).map(|_| ()))?;
        }
        function.node = self.nodes(false)?;
        Ok(function)
    }

    /// Names with or without types, of which only the names count.
    pub(super) fn function_values(&mut self) -> Parsed<Vec<String>> {
        let mut names = Vec::new();
        self.expect("(")?;
        self.list(")", |parser| {
            let info = parser.value_info(false)?;
            names.push(info.name().to_owned());
            Ok(())
        })?;
        Ok(names)
    }
}

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    }
}
