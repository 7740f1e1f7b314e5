// A client of the enclave, written from the protocol's documents: @hpke/core for the channel,
// WebCrypto for everything else. One JSON object per line on stdin, one answer per line on stdout:
//
//   {"channel_key", "config", "account", "generation", "pin"}  ->  {"enc", "frame"}
//   {"reply"}  ->  {"outcome"} or {"refused"}
//
// The frame is an Enroll; byte strings are hexadecimal.

import { CipherSuite, ExportOnly, HkdfSha256 } from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";
import { createInterface } from "node:readline";

const { subtle } = globalThis.crypto;
const text = (string) => new TextEncoder().encode(string);
const hex = (bytes) => Buffer.from(bytes).toString("hex");
const unhex = (string) => new Uint8Array(Buffer.from(string, "hex"));
const join = (...parts) => new Uint8Array(parts.flatMap((part) => [...part]));
const sha256 = async (bytes) => new Uint8Array(await subtle.digest("SHA-256", bytes));

function bigEndian(value, length) {
  const bytes = new Uint8Array(length);
  for (let at = length - 1, rest = BigInt(value); at >= 0; at -= 1, rest >>= 8n) {
    bytes[at] = Number(rest & 255n);
  }
  return bytes;
}

async function p256() {
  const pair = await subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign"]);
  const point = new Uint8Array(await subtle.exportKey("raw", pair.publicKey));
  const sign = async (message) =>
    new Uint8Array(await subtle.sign({ name: "ECDSA", hash: "SHA-256" }, pair.privateKey, message));
  return { point, sign };
}

async function open({ channel_key, config, account, generation, pin }) {
  const suite = new CipherSuite({
    kem: new XWing(),
    kdf: new HkdfSha256(),
    aead: new ExportOnly(),
  });
  const keyBytes = unhex(channel_key);
  const recipientPublicKey = await suite.kem.deserializePublicKey(keyBytes);
  const info = join(
    text("keyfold/channel/1"),
    bigEndian(1, 2),
    unhex(config),
    await sha256(keyBytes),
  );
  const sender = await suite.createSenderContext({ recipientPublicKey, info });
  const exported = async (label) => new Uint8Array(await sender.export(text(label), 32));
  const requestKey = await exported("keyfold/request-key/1");
  const responseKey = await exported("keyfold/response-key/1");
  const binding = await exported("keyfold/binding/1");

  // Enroll: variant 0, the PIN, and the device with its name and two keys.
  const [deviceKey, uvKey] = [await p256(), await p256()];
  const name = text("a browser");
  const request = join(
    [0],
    unhex(pin),
    [name.length],
    name,
    deviceKey.point,
    uvKey.point,
  );
  const device = await sha256(join(text("keyfold/device/1"), deviceKey.point, uvKey.point));
  const signed = join(
    text("keyfold/request/1"),
    binding,
    bigEndian(0, 8),
    unhex(account),
    bigEndian(generation, 4),
    [1],
    bigEndian(0, 8),
    await sha256(request),
  );
  const signature = await deviceKey.sign(signed);

  // device, key kind (presence is variant 0), guard seen, signature, the request with its length.
  const length = [(request.length & 127) | 128, request.length >> 7];
  const body = join(device.slice(0, 16), [0], [0], signature, length, request);
  const padded = new Uint8Array(512);
  padded.set(bigEndian(body.length, 4));
  padded.set(body, 4);

  const enc = new Uint8Array(sender.enc);
  const session = (await sha256(enc)).slice(0, 16);
  const key = await subtle.importKey("raw", requestKey, "AES-GCM", false, ["encrypt"]);
  const additionalData = join(session, unhex(account), bigEndian(generation, 4));
  const parameters = { name: "AES-GCM", iv: new Uint8Array(12), additionalData };
  const frame = new Uint8Array(await subtle.encrypt(parameters, key, padded));
  return { enc, frame, responseKey };
}

async function hkdf(ikm, salt, info) {
  const key = await subtle.importKey("raw", ikm, "HKDF", false, ["deriveBits"]);
  const parameters = { name: "HKDF", hash: "SHA-256", salt, info };
  return new Uint8Array(await subtle.deriveBits(parameters, key, 256));
}

// HKDF-Expand alone, to one block: HMAC(key, info || 1).
async function expand(prk, info) {
  const parameters = { name: "HMAC", hash: "SHA-256" };
  const key = await subtle.importKey("raw", prk, parameters, false, ["sign"]);
  return new Uint8Array(await subtle.sign("HMAC", key, join(info, [1])));
}

async function read(session, sealed) {
  const info = join(text("keyfold/reply-key/1"), await sha256(session.frame));
  const replyKey = await expand(session.responseKey, info);
  const sealKey = await hkdf(replyKey, sealed.slice(0, 32), text("keyfold/reply-seal/1"));
  const key = await subtle.importKey("raw", sealKey, "AES-GCM", false, ["decrypt"]);
  const parameters = { name: "AES-GCM", iv: new Uint8Array(12) };
  const padded = new Uint8Array(await subtle.decrypt(parameters, key, sealed.slice(32)));
  const length = Buffer.from(padded.slice(0, 4)).readUInt32BE();
  return padded.slice(4, 4 + length);
}

let session;
for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  let answer;
  if (message.channel_key) {
    session = await open(message);
    answer = { enc: hex(session.enc), frame: hex(session.frame) };
  } else {
    answer = await read(session, unhex(message.reply)).then(
      (outcome) => ({ outcome: hex(outcome) }),
      () => ({ refused: true }),
    );
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
