# A server and its clients, threads, processes, watched directories and many files in one Node program.
cat >/data/program.js <<'NODE'
const { strict: assert } = require('assert');
const { Worker } = require('worker_threads');
const { execFile, spawnSync } = require('child_process');
const { promisify } = require('util');
const crypto = require('crypto'), fs = require('fs'), http = require('http'), net = require('net'), zlib = require('zlib');

async function main() {
  const body = crypto.randomBytes(1 << 20);
  fs.writeFileSync('/data/body', body);
  const server = http.createServer((_, answer) => fs.createReadStream('/data/body').pipe(answer));
  await new Promise(done => server.listen(0, '127.0.0.1', done));
  const fetched = await Promise.all(Array.from({ length: 20 }, () => fetch(`http://127.0.0.1:${server.address().port}/`)
    .then(answer => answer.arrayBuffer())));
  assert(fetched.every(got => body.equals(Buffer.from(got))));
  server.close();

  const count = new SharedArrayBuffer(4);
  await Promise.all(Array.from({ length: 3 }, () => new Promise((done, failed) => new Worker(
    'const { workerData } = require("worker_threads"); for (let n = 0; n < 1000; n++) Atomics.add(new Int32Array(workerData), 0, 1);',
    { eval: true, workerData: count }).on('exit', done).on('error', failed))));
  assert.equal(new Int32Array(count)[0], 3000);

  const { stdout } = await promisify(execFile)('sh', ['-c', 'echo out; pwd'], { cwd: '/data' });
  assert.equal(stdout, 'out\n/data\n');
  assert.equal(spawnSync('sh', ['-c', 'kill -9 $$']).signal, 'SIGKILL');

  const echo = net.createServer(socket => socket.pipe(socket));
  await new Promise(done => echo.listen('/data/socket', done));
  const told = await new Promise(done => {
    const socket = net.connect('/data/socket', () => socket.end('hello'));
    socket.on('data', data => done(String(data)));
  });
  assert.equal(told, 'hello');
  echo.close();

  const seen = new Promise(done => { const watcher = fs.watch('/data', (_, name) => name === 'watched' && (watcher.close(), done())); });
  fs.writeFileSync('/data/watched', '');
  await seen;

  fs.mkdirSync('/data/modules');
  await Promise.all(Array.from({ length: 200 }, async (_, n) => {
    await fs.promises.mkdir(`/data/modules/m${n}`);
    await fs.promises.writeFile(`/data/modules/m${n}/index.js`, `module.exports = ${n};`);
  }));
  let sum = 0;
  for (const name of fs.readdirSync('/data/modules')) sum += require(`/data/modules/${name}`);
  assert.equal(sum, 19900);
  fs.rmSync('/data/modules', { recursive: true });

  const packed = await promisify(zlib.gzip)(body);
  assert(body.equals(await promisify(zlib.gunzip)(packed)));
  console.log('whole');
}
main().catch(error => { console.error(error); process.exit(1); });
NODE
node /data/program.js
