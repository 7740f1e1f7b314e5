// Values across the border of QuickJS, as JSON: bytes in hexadecimal, and what JSON has not. Both sides run this.

const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const fromHex = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (digits) => parseInt(digits, 16));
const members = (value, change) =>
  Object.fromEntries(Object.entries(value).map(([name, member]) => [name, change(member)]));

/** What JSON can write. */
export function pack(value) {
  if (value === undefined) return { $undefined: true };
  if (value instanceof ArrayBuffer) return { $buffer: toHex(new Uint8Array(value)) };
  if (value instanceof Uint8Array) return { $bytes: toHex(value) };
  if (Array.isArray(value)) return value.map(pack);
  if (typeof value !== "object" || value === null) return value;
  return members(value, pack);
}

/** What was packed. */
export function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (typeof value !== "object" || value === null) return value;
  if (value.$undefined) return undefined;
  if (value.$buffer !== undefined) return fromHex(value.$buffer).buffer;
  if (value.$bytes !== undefined) return fromHex(value.$bytes);
  return members(value, unpack);
}
