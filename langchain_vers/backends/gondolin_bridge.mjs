// Starts one Gondolin micro-VM with the SDK and keeps it until its standard input ends: the host's process has closed it, or has died.
//
// The program's argument is the folder of the SDK. Standard input: one line of JSON with the configuration (`gondolin_options.bridge_config`,
// and what `gondolin_machine.py` adds), then one line for each request. Standard output: one line of JSON for each event or answer. Commands
// do not go this way: they go over the socket that the SDK opens for each session. Secrets arrive on standard input and are never printed.

import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import net from "node:net";
import path from "node:path";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

import { folderProvider } from "./gondolin_folders.mjs";

const OLDEST_NODE = [23, 6];
const WATCH_MS = 500;
// QEMU opens the socket by which it can be stopped for a moment only if it may be paused when idle. This is the longest time that a timer of
// Node can take, 24 days.
const NEVER_MS = 2 ** 31 - 1;

const sdkFolder = process.argv[2];
const folder = process.env.TMPDIR;
const parent = process.ppid;
let sdk, vm, assets, assetFolder;
const revoked = new Set();
let ending = false;

function tell(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function reasonOf(error) {
  return (error instanceof Error ? error.message : String(error)).trim();
}

async function end(code) {
  if (ending) return;
  ending = true;
  try {
    await vm?.close();
  } catch {
    // Its processes end with this one, below.
  }
  fs.rmSync(folder, { recursive: true, force: true });
  process.exit(code);
}

// --- making it ---

async function loadSdk() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1])) {
    throw new Error(`Gondolin needs Node ${OLDEST_NODE.join(".")} or newer, and ${process.execPath} is ${process.versions.node}`);
  }
  const { exports, main } = JSON.parse(fs.readFileSync(path.join(sdkFolder, "package.json"), "utf8"));
  return await import(pathToFileURL(path.join(sdkFolder, exports?.["."]?.import ?? main)));
}

// The folder of the image, which checkpoints are tied to by the build id in its manifest.
async function findImage(image) {
  if (image === null) {
    assets = await sdk.ensureGuestAssets();
    assetFolder = path.dirname(assets.kernelPath);
  } else {
    assetFolder = fs.existsSync(image) ? path.resolve(image) : (await sdk.ensureImageSelector(image)).assetDir;
    assets = sdk.loadGuestAssets(assetFolder);
  }
}

// A program that the SDK starts as QEMU, so that a QEMU never outlives this process, however that ends.
function qemuThatDiesWithUs(qemu) {
  const manifest = sdk.loadAssetManifest(assetFolder);
  const guest = manifest?.config?.arch ?? (process.arch === "arm64" ? "aarch64" : "x86_64");
  const program = qemu ?? `qemu-system-${guest}`;
  if (process.platform !== "linux" || spawnSync("setpriv", ["--pdeathsig", "KILL", "true"]).status !== 0) return qemu ?? undefined;
  const quoted = `'${program.replaceAll("'", "'\\''")}'`;
  // The SDK reads the architecture from the name.
  const wrapper = path.join(folder, path.basename(program));
  fs.writeFileSync(wrapper, `#!/bin/sh\nexec setpriv --pdeathsig KILL -- ${quoted} "$@"\n`, { mode: 0o700 });
  return wrapper;
}

// What the guest sees of a folder of the host. Names in `hidden` are not there for it, at any depth.
function provider(mount, hidden) {
  let found = folderProvider(sdk, mount.host, mount.growth);
  if (mount.mode !== "rw") found = new sdk.ReadonlyProvider(found);
  if (hidden.length > 0) {
    const names = new Set(hidden);
    const shouldShadow = ({ path: name, oldPath, newPath }) =>
      [name, oldPath, newPath].some((one) => one?.split("/").some((part) => names.has(part)));
    found = new sdk.ShadowProvider(found, { shouldShadow, writeMode: "deny" });
  }
  if (mount.mode === "copy") {
    // When it has been copied, the guest has no business in the original any more.
    found = new sdk.ShadowProvider(found, { shouldShadow: () => revoked.has(mount.guest), writeMode: "deny" });
  }
  return found;
}

function network(egress) {
  if (egress === null) return { sandbox: { netEnabled: false }, env: {} };
  const { httpHooks, env } = sdk.createHttpHooks({
    allowedHosts: egress.hosts,
    allowedInternalHosts: egress.internalHosts,
    blockInternalRanges: egress.blockInternal,
    secrets: egress.secrets,
    replaceSecretsInQuery: egress.secretsInQuery,
  });
  const dns = { mode: egress.dns };
  if (egress.dns === "trusted") dns.trustedServers = egress.dnsServers;
  if (egress.dns === "synthetic") dns.syntheticHostMapping = "per-host";
  const options = { httpHooks, dns, allowWebSockets: egress.webSockets };
  if (Object.keys(egress.tcp).length > 0) options.tcp = { hosts: egress.tcp };
  if (egress.ssh !== null) options.ssh = withoutNulls(egress.ssh);
  if (egress.maxRequestBytes !== null) options.maxHttpBodyBytes = egress.maxRequestBytes;
  if (egress.maxResponseBytes !== null) options.maxHttpResponseBodyBytes = egress.maxResponseBytes;
  return { options, sandbox: {}, env };
}

function withoutNulls(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== null).map(([name, one]) => [name, withoutNulls(one)]));
}

function vmOptions(config, net) {
  const { hardware } = config;
  const mounts = {};
  config.mounts.forEach((mount, number) => {
    mounts[mount.mode === "copy" ? `${config.copies}/${number}` : mount.guest] = provider(mount, config.hidden);
  });
  const sandbox = {
    vmm: "qemu",
    imagePath: assetFolder,
    console: "none",
    qemuPath: qemuThatDiesWithUs(hardware.qemu),
    accel: hardware.acceleration,
    machineType: hardware.machine,
    cpu: hardware.cpu,
    append: hardware.kernel_arguments,
    qemuIdlePauseMs: hardware.idle_pause === null ? NEVER_MS : Math.max(1, Math.round(hardware.idle_pause * 1000)),
    // One exec is a session that waits, or a command whose background processes still print.
    maxQueuedExecs: 4096,
    // The socket tells nobody to wait, so what a caller sends is kept here until the guest takes it. It is in the caller's memory as well.
    maxStdinBytes: 1024 * 1024,
    maxQueuedStdinBytes: 2 ** 31,
    maxTotalQueuedStdinBytes: 2 ** 33,
    ...net.sandbox,
  };
  return withUndefined({
    ...net.options,
    vfs: { mounts },
    rootfs: withUndefined({ mode: hardware.disk, size: hardware.disk_bytes }),
    memory: `${hardware.memory}M`,
    cpus: hardware.cpus,
    startTimeoutMs: Math.round(hardware.start_seconds * 1000),
    sessionLabel: "langchain-vers",
    sandbox: withUndefined(sandbox),
  });
}

// The SDK takes null for a value; what was not chosen must not be there.
function withUndefined(options) {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== null && value !== undefined));
}

async function start(config) {
  sdk = await loadSdk();
  await findImage(config.image);
  const net = network(config.egress);
  const options = vmOptions(config, net);
  if (config.checkpoint === null) {
    vm = await sdk.VM.create(options);
  } else {
    delete options.rootfs;
    vm = await sdk.VmCheckpoint.load(config.checkpoint).resume(options);
  }
  await vm.start();
  await guest("mkdir -p -- \"$@\"", config.folders);
  await copyIn(config);
  const room = await makeRoom(config.room);
  tell({ event: "ready", id: vm.id, room, socket: path.join(process.env.GONDOLIN_SESSIONS_DIR, `${vm.id}.sock`), placeholders: net.env });
  setInterval(() => {
    if (vm.getHostPid() === null) {
      tell({ event: "stopped", reason: "its virtual machine has ended" });
      void end(0);
    }
    if (process.ppid !== parent) void end(0);
  }, WATCH_MS);
}

async function guest(script, names = []) {
  const done = await vm.exec(["/bin/sh", "-c", script, "sh", ...names]);
  if (done.exitCode !== 0) throw new Error(`the guest could not do its part: ${(done.stderr || done.stdout).trim().slice(-500)}`);
  return done.stdout.trim();
}

// Null where the guest has not got what it takes.
async function makeRoom(script) {
  try {
    return Number(await guest(script)) || null;
  } catch (error) {
    process.stderr.write(`${reasonOf(error)}\n`);
    return null;
  }
}

async function copyIn(config) {
  for (const [number, mount] of config.mounts.entries()) {
    if (mount.mode !== "copy") continue;
    // A machine that was restored has its copy, and may have changed it.
    if (config.checkpoint === null) {
      await guest('mkdir -p -- "$2" && cp -a -- "$1/." "$2/"', [`${config.copies}/${number}`, mount.guest]);
    }
    revoked.add(mount.guest);
    await guest('umount "$1" && rmdir "$1"; true', [`${config.copies}/${number}`]);
  }
}

// --- snapshots ---

// Gondolin's own checkpoint ends the VM. Its file is the VM's disk with a description behind it, so a copy of the disk made while the guest
// stands still is one as well, and the VM goes on.
async function snapshot({ path: target, name }) {
  const guestAssetBuildId = sdk.loadAssetManifest(assetFolder)?.buildId;
  if (!guestAssetBuildId) throw new Error(`the image ${assetFolder} has no manifest with a build id, without which there are no snapshots`);
  const disk = onlyFile("gondolin-disk-", ".qcow2");
  await guest("sync");
  const qmp = await Qmp.open(onlyFile("gondolin-qmp-", ".sock"));
  const unfinished = `${target}.part`;
  try {
    await qmp.run("stop"); // which writes out what QEMU itself has not
    try {
      fs.copyFileSync(disk, unfinished, fs.constants.COPYFILE_FICLONE);
    } finally {
      await qmp.run("cont");
    }
    // Of a VM that was restored, the disk builds on the checkpoint; a new one must not depend on an old one.
    if (path.resolve(backingOf(unfinished)) !== path.resolve(assets.rootfsPath)) {
      qemuImg("rebase", "-f", "qcow2", "-F", "raw", "-b", path.resolve(assets.rootfsPath), unfinished);
    }
    sdk.VmCheckpoint.writeTrailer(unfinished, {
      version: 1,
      name,
      createdAt: new Date().toISOString(),
      diskFile: path.basename(target),
      guestAssetBuildId,
      snapshotKind: "disk",
      createdWithVmm: "qemu",
      compatibleVmm: ["qemu"],
    });
    fs.renameSync(unfinished, target);
  } finally {
    qmp.close();
    fs.rmSync(unfinished, { force: true });
  }
  return {};
}

function onlyFile(prefix, suffix) {
  const [name] = fs.readdirSync(folder).filter((one) => one.startsWith(prefix) && one.endsWith(suffix));
  if (!name) throw new Error(`there is no ${prefix}*${suffix} of the machine; this version of Gondolin works otherwise than 0.12`);
  return path.join(folder, name);
}

function qemuImg(...words) {
  const done = spawnSync("qemu-img", words, { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`qemu-img ${words[0]} failed: ${(done.stderr || String(done.error)).trim()}`);
  return done.stdout;
}

function backingOf(image) {
  return JSON.parse(qemuImg("info", "--output=json", image))["backing-filename"] ?? "";
}

// QEMU's machine protocol: a greeting, then one answer for each command, with events in between.
class Qmp {
  static async open(socketPath) {
    const qmp = new Qmp(net.createConnection(socketPath));
    await qmp.answer((message) => "QMP" in message);
    await qmp.run("qmp_capabilities");
    return qmp;
  }

  constructor(socket) {
    this.socket = socket;
    this.lines = readline.createInterface({ input: socket })[Symbol.asyncIterator]();
    socket.on("error", () => {});
  }

  async run(execute) {
    this.socket.write(`${JSON.stringify({ execute })}\n`);
    const { error } = await this.answer((message) => "return" in message || "error" in message);
    if (error) throw new Error(`QEMU refused to ${execute}: ${error.desc}`);
  }

  async answer(isIt) {
    for (;;) {
      const { value, done } = await this.lines.next();
      if (done) throw new Error("QEMU closed its control socket");
      const message = JSON.parse(value);
      if (isIt(message)) return message;
    }
  }

  close() {
    this.socket.destroy();
  }
}

// --- the other side ---

const requests = { snapshot };
let chain = Promise.resolve(); // requests are carried out one after the other

function received(line) {
  const message = JSON.parse(line);
  if (!vm && message.image !== undefined) {
    chain = start(message).catch((error) => {
      tell({ event: "failed", reason: reasonOf(error) });
      return end(1);
    });
    return;
  }
  chain = chain.then(async () => {
    try {
      tell({ answer: message.request, ...(await requests[message.op](message)) });
    } catch (error) {
      tell({ answer: message.request, error: reasonOf(error) });
    }
  });
}

process.on("SIGTERM", () => void end(0));
process.on("SIGINT", () => {}); // of the terminal, meant for the host's process
process.stdout.on("error", () => void end(0));
readline.createInterface({ input: process.stdin }).on("line", received).on("close", () => void end(0));
