// Reads Arrow's streaming format as far as the server writes it: whole numbers, float32, text and bytes, no compression.
// https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format

const SCHEMA = 1, BATCH = 3;
const INT = 2, FLOAT = 3, BINARY = 4, TEXT = 5;

/** { columns: name -> typed array, strings or byte arrays; about: what the schema's metadata says; length } */
export function readArrow(buffer) {
  const view = new DataView(buffer);
  let at = 0, fields = [], about = null, length = 0;
  const parts = new Map();
  while (at + 8 <= buffer.byteLength) {
    if (view.getUint32(at, true) === 0xffffffff) at += 4;
    const size = view.getInt32(at, true);
    at += 4;
    if (!size) break;
    const message = root(view, at);
    const body = at + size, kind = message.byte(1), head = message.table(2);
    if (kind === SCHEMA) {
      fields = head.tables(1).map((field) => ({ name: field.text(0), type: typeOf(field) }));
      for (const pair of head.tables(2)) if (pair.text(0) === "about") about = JSON.parse(pair.text(1));
      for (const { name } of fields) parts.set(name, []);
    } else if (kind === BATCH) {
      const n = Number(head.long(0)), buffers = head.structs(2, 16);
      let next = 0;
      const take = () => { const place = buffers[next++]; return [body + Number(view.getBigInt64(place, true)), Number(view.getBigInt64(place + 8, true))]; };
      for (const { name, type } of fields) {
        take(); // which are missing: none are
        parts.get(name).push(type.width ? numbers(buffer, type, take(), n) : pieces(buffer, type, take(), take(), n));
      }
      length += n;
    }
    at = body + Number(message.long(3));
  }
  const columns = {};
  for (const { name, type } of fields) columns[name] = joined(parts.get(name), type, length);
  return { columns, about, length };
}

const KINDS = { i8: Int8Array, i16: Int16Array, i32: Int32Array, u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, f32: Float32Array };

function typeOf(field) {
  const kind = field.byte(2), type = field.table(3);
  if (kind === INT) { const width = type.int(0); return { width: width / 8, Kind: KINDS[(type.byte(1) ? "i" : "u") + width] }; }
  if (kind === FLOAT) return { width: 4, Kind: Float32Array };
  if (kind === TEXT) return { text: true };
  if (kind === BINARY) return { text: false };
  throw new Error(`a column of Arrow type ${kind} cannot be read`);
}

function numbers(buffer, { Kind, width }, [start], n) {
  return start % width ? new Kind(buffer.slice(start, start + n * width)) : new Kind(buffer, start, n);
}

function pieces(buffer, { text }, [starts], [data], n) {
  const offsets = new Int32Array(buffer.slice(starts, starts + 4 * (n + 1)));
  const bytes = new Uint8Array(buffer), decoder = new TextDecoder();
  return Array.from({ length: n }, (_, i) => {
    const piece = bytes.subarray(data + offsets[i], data + offsets[i + 1]);
    return text ? decoder.decode(piece) : piece;
  });
}

function joined(parts, type, length) {
  if (parts.length === 1) return parts[0];
  if (!type.width) return parts.flat();
  const whole = new type.Kind(length);
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
}

// FlatBuffers: a table holds, at a negative offset, where its fields lie. https://flatbuffers.dev/internals
function root(view, at) { return table(view, at + view.getInt32(at, true)); }

function table(view, at) {
  const fields = at - view.getInt32(at, true), size = view.getUint16(fields, true);
  const place = (i) => { const slot = 4 + 2 * i; const off = slot < size ? view.getUint16(fields + slot, true) : 0; return off ? at + off : 0; };
  const follow = (spot) => spot + view.getUint32(spot, true);
  const read = {
    byte: (i) => (place(i) ? view.getUint8(place(i)) : 0),
    int: (i) => (place(i) ? view.getInt32(place(i), true) : 0),
    long: (i) => (place(i) ? view.getBigInt64(place(i), true) : 0n),
    table: (i) => table(view, follow(place(i))),
    text: (i) => { if (!place(i)) return ""; const spot = follow(place(i)); return new TextDecoder().decode(new Uint8Array(view.buffer, spot + 4, view.getUint32(spot, true))); },
    structs: (i, width) => { if (!place(i)) return []; const spot = follow(place(i)); return Array.from({ length: view.getUint32(spot, true) }, (_, j) => spot + 4 + j * width); },
    tables: (i) => read.structs(i, 4).map((spot) => table(view, follow(spot))),
  };
  return read;
}
