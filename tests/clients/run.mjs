// `node run.mjs <url of the server> <case>` prints what a genuine client makes of the server's answers, as JSON.

import { embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { Ollama } from "ollama";
import { createOllama } from "ollama-ai-provider-v2";

const [url, name] = process.argv.slice(2);
const ollama = new Ollama({ host: url });
const provider = createOllama({ baseURL: `${url}/api` });

globalThis.AI_SDK_LOG_WARNINGS = false; // of settings that the provider does not know
const HI = [{ role: "user", content: "hi" }];
const SHORT = { num_predict: 8, temperature: 0 };
const ENDLESS = { num_predict: -1, num_ctx: 100_000, temperature: 0 };
const NUMBER = { type: "object", properties: { n: { type: "integer", enum: [1, 2] } }, required: ["n"] };
const WEATHER = { type: "object", properties: { n: { type: "integer" } }, required: ["n"] };
const FUNCTION = { type: "function", function: { name: "get_w", description: "weather", parameters: WEATHER } };

function asked(model, options = SHORT, think = false) {
  return { model: provider(model), prompt: "hi", maxRetries: 0, providerOptions: { ollama: { options, think } } };
}

function withTool() {
  const get_w = tool({
    description: "weather",
    inputSchema: jsonSchema(WEATHER),
    execute: async ({ n }) => (n === 3 ? "sunny" : "unknown"),
  });
  return { ...asked("parrot", { temperature: 0 }, true), tools: { get_w }, stopWhen: stepCountIs(4) };
}

function told(steps) {
  return steps.map((step) => ({
    text: step.text,
    reasoning: step.reasoningText ?? "",
    finish: step.finishReason,
    calls: step.toolCalls.map((call) => [call.toolName, call.input]),
    results: step.toolResults.map((result) => result.output),
    usage: [step.usage.inputTokens, step.usage.outputTokens],
  }));
}

// Every part of the stream, and no error among them.
async function read(result) {
  const pieces = [];
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") pieces.push(part.text);
  }
  return pieces;
}

async function all(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

// The process lives until its standard input is closed: what ends the request is then the abort, not its end.
function stay() {
  process.stdin.resume();
}

const cases = {
  "ai text": async () => told((await generateText(asked("tiny"))).steps),
  "ai streamed text": async () => {
    const result = streamText({ ...asked("tiny"), onError: () => {} });
    const pieces = await read(result);
    return { pieces, steps: told(await result.steps) };
  },
  "ai tool": async () => told((await generateText(withTool())).steps),
  "ai streamed tool": async () => {
    const result = streamText({ ...withTool(), onError: () => {} });
    await read(result);
    return told(await result.steps);
  },
  "ai object": async () => {
    const output = Output.object({ schema: jsonSchema(NUMBER) });
    return (await generateText({ ...asked("tiny", { num_predict: 60 }), output })).output;
  },
  "ai streamed object": async () => {
    const output = Output.object({ schema: jsonSchema(NUMBER) });
    const result = streamText({ ...asked("tiny", { num_predict: 60 }), output, onError: () => {} });
    const partial = await all(result.partialOutputStream);
    return { partial, whole: await result.output };
  },
  "ai embeddings": async () => {
    const result = await embedMany({ model: provider.embedding("bert"), values: ["ba be", "bi"], maxRetries: 0 });
    return { embeddings: result.embeddings, tokens: result.usage.tokens };
  },
  "ai missing model": async () => await generateText(asked("nope")),
  "ai abort": async () => {
    const leave = new AbortController();
    const result = streamText({ ...asked("endless", ENDLESS), abortSignal: leave.signal, onError: () => {} });
    const kinds = [];
    for await (const part of result.fullStream) {
      kinds.push(part.type);
      if (part.type === "text-delta") leave.abort();
    }
    stay();
    return kinds;
  },

  "ollama chat": async () => await ollama.chat({ model: "tiny", messages: HI, options: SHORT }),
  "ollama streamed chat": async () =>
    await all(await ollama.chat({ model: "tiny", messages: HI, options: SHORT, stream: true })),
  "ollama tool": async () => {
    const given = { model: "parrot", tools: [FUNCTION], think: true, options: { temperature: 0 } };
    const { message } = await ollama.chat({ ...given, messages: HI });
    const result = { role: "tool", tool_name: message.tool_calls[0].function.name, content: "sunny" };
    const after = await ollama.chat({ ...given, messages: [...HI, message, result] });
    return [message, after.message];
  },
  "ollama streamed tool": async () => {
    const given = { model: "parrot", tools: [FUNCTION], think: true, options: { temperature: 0 } };
    return await all(await ollama.chat({ ...given, messages: HI, stream: true }));
  },
  "ollama format": async () => {
    const { message } = await ollama.chat({ model: "tiny", messages: HI, format: NUMBER, options: { num_predict: 60 } });
    return JSON.parse(message.content);
  },
  "ollama generate": async () => {
    const given = { model: "tiny", prompt: "hi", options: SHORT };
    const whole = await ollama.generate(given);
    return { whole, parts: await all(await ollama.generate({ ...given, stream: true })) };
  },
  "ollama embed": async () => await ollama.embed({ model: "bert", input: ["ba be", "bi"] }),
  "ollama models": async () => ({
    list: (await ollama.list()).models.map((model) => model.name),
    show: (await ollama.show({ model: "parrot" })).capabilities,
    running: (await ollama.ps()).models.map((model) => model.name),
    version: (await ollama.version()).version,
  }),
  "ollama missing model": async () => await ollama.chat({ model: "nope", messages: HI, stream: true }),
  "ollama abort": async () => {
    const stream = await ollama.chat({ model: "endless", messages: HI, options: ENDLESS, stream: true });
    stay();
    for await (const part of stream) if (part.message.content) stream.abort();
  },
};

try {
  console.log(JSON.stringify({ result: (await cases[name]()) ?? null }));
} catch ({ name, message, statusCode, status_code }) {
  console.log(JSON.stringify({ error: { name, message, status: statusCode ?? status_code ?? null } }));
}
