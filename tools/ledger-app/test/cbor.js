// As much CBOR (RFC 8949) as receipts have: shortest heads, definite lengths, and nothing else is read.

/** A tagged value. */
export class Tagged {
  constructor(tag, value) {
    Object.assign(this, { tag, value });
  }
}

/** Numbers, Buffers, text, arrays, Maps, booleans, null and tagged values. */
export function encode(value) {
  if (value === null) return Buffer.from([0xf6]);
  if (value === true) return Buffer.from([0xf5]);
  if (value === false) return Buffer.from([0xf4]);
  if (typeof value === "number") return value < 0 ? head(1, -1 - value) : head(0, value);
  if (Buffer.isBuffer(value)) return Buffer.concat([head(2, value.length), value]);
  if (typeof value === "string") {
    const bytes = Buffer.from(value, "utf8");
    return Buffer.concat([head(3, bytes.length), bytes]);
  }
  if (Array.isArray(value)) return Buffer.concat([head(4, value.length), ...value.map(encode)]);
  if (value instanceof Map) {
    return Buffer.concat([head(5, value.size), ...[...value].flat().map(encode)]);
  }
  if (value instanceof Tagged) return Buffer.concat([head(6, value.tag), encode(value.value)]);
  throw new Error(`no CBOR for ${value}`);
}

function head(major, argument) {
  const type = major << 5;
  if (argument < 24) return Buffer.from([type | argument]);
  if (argument < 0x100) return Buffer.from([type | 24, argument]);
  const bytes = Buffer.alloc(argument < 0x10000 ? 3 : 5);
  bytes[0] = type | (bytes.length === 3 ? 25 : 26);
  bytes.writeUIntBE(argument, 1, bytes.length - 1);
  return bytes;
}

/** The one value in the bytes; anything after it, or written longer than need be, is refused. */
export function decode(bytes) {
  const input = { bytes, at: 0 };
  const value = read(input);
  if (input.at !== bytes.length) throw new Error(`${bytes.length - input.at} bytes after the value`);
  if (!encode(value).equals(bytes)) throw new Error("not the shortest writing");
  return value;
}

function read(input) {
  const initial = take(input, 1)[0];
  const [major, low] = [initial >> 5, initial & 0x1f];
  if (major === 7) {
    if (low === 20 || low === 21) return low === 21;
    if (low === 22) return null;
    throw new Error(`simple value ${low}`);
  }
  if (low > 26) throw new Error(`length ${low}`);
  const size = { 24: 1, 25: 2, 26: 4 }[low];
  const argument = size === undefined ? low : take(input, size).readUIntBE(0, size);
  switch (major) {
    case 0:
      return argument;
    case 1:
      return -1 - argument;
    case 2:
      return Buffer.from(take(input, argument));
    case 3:
      return take(input, argument).toString("utf8");
    case 4:
      return Array.from({ length: argument }, () => read(input));
    case 5: {
      const map = new Map(Array.from({ length: argument }, () => [read(input), read(input)]));
      if (map.size !== argument) throw new Error("a key twice");
      return map;
    }
    default:
      return new Tagged(argument, read(input));
  }
}

function take(input, length) {
  if (input.at + length > input.bytes.length) throw new Error("the bytes end early");
  input.at += length;
  return input.bytes.subarray(input.at - length, input.at);
}
