// What a guest sees of a folder of the host, for the bridge: as the SDK's own provider of real folders, with two differences.
//
// No symlink is ever followed here: the guest resolves symlinks itself, so that a path with one in it can only have been swapped in. The SDK
// follows them and compares where they lead, which a guest that renames in between gets around (1 of some 500 attempts read a file of the
// host), and not at all for lstat and readlink. Here each part of a path is opened as a folder, and never by its name again.
//
// And the guest may make the folder only so much larger. What counts is the size of files, with their holes, as the guest itself is told no
// other; or their blocks, if these are more; and a little for each name.

import * as fs from "node:fs";
import * as os from "node:os";

const { errno } = os.constants;
const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY } = fs.constants;
const LINUX = process.platform === "linux";
const O_PATH = 0x200000; // asks for no permission to read; Node has no name for it
const BLOCK = 512; // the unit of `blocks`, whatever the file system's own is
const NAME_BYTES = 1024;
const FLAGS = {
  r: O_RDONLY,
  "r+": O_RDWR,
  w: O_WRONLY | O_CREAT | O_TRUNC,
  "w+": O_RDWR | O_CREAT | O_TRUNC,
  a: O_WRONLY | O_CREAT | O_APPEND,
  "a+": O_RDWR | O_CREAT | O_APPEND,
  wx: O_WRONLY | O_CREAT | O_TRUNC | O_EXCL,
  "wx+": O_RDWR | O_CREAT | O_TRUNC | O_EXCL,
  ax: O_WRONLY | O_CREAT | O_APPEND | O_EXCL,
  "ax+": O_RDWR | O_CREAT | O_APPEND | O_EXCL,
};

function bytesOf(stats) {
  return Math.max(stats.size, stats.blocks * BLOCK);
}

function failure(code, operation, path) {
  return Object.assign(new Error(`${code}: ${operation} '${path}'`), { code, errno: errno[code], syscall: operation, path });
}

// How much larger a folder may become, and the files of it that are open. Each is known by its number on the disk, as it may have several
// names, and lives on without one while it is open.
class Growth {
  #left;
  #files = new Map();

  constructor(allowed) {
    this.#left = allowed ?? Infinity;
  }

  opened(stats) {
    const key = `${stats.dev}:${stats.ino}`;
    const file = this.#files.get(key) ?? { key, handles: 0, bytes: bytesOf(stats) };
    file.handles += 1;
    this.#files.set(key, file);
    return file;
  }

  changed(file, stats) {
    this.#left -= bytesOf(stats) - file.bytes;
    file.bytes = bytesOf(stats);
  }

  closed(file, stats) {
    file.handles -= 1;
    if (file.handles > 0) return;
    this.#files.delete(file.key);
    if (stats.nlink === 0) this.#left += file.bytes;
  }

  reserve(bytes, operation, path) {
    if (bytes > this.#left) throw failure("ENOSPC", operation, path);
    this.#left -= bytes;
  }

  release(bytes) {
    this.#left += bytes;
  }

  // A name of this file goes; with the last one its bytes do, as soon as nobody has it open.
  unnamed(stats) {
    this.#left += NAME_BYTES;
    if (stats.isFile() && stats.nlink === 1 && !this.#files.has(`${stats.dev}:${stats.ino}`)) this.#left += bytesOf(stats);
  }
}

class FileHandle {
  #fd;
  #file;
  #growth;
  #closed = false;
  #pending = new Set();

  constructor(path, flags, mode, fd, growth) {
    Object.assign(this, { path, flags, mode });
    this.#fd = fd;
    this.#growth = growth;
    this.#file = growth.opened(fs.fstatSync(fd));
  }

  get closed() {
    return this.#closed;
  }

  // The number of a file that was closed may be another one's by now.
  #stats() {
    if (this.#closed) throw failure("EBADF", "use", this.path);
    return fs.fstatSync(this.#fd);
  }

  // And until what was begun has ended it must not become that.
  #doing(begin) {
    if (this.#closed) throw failure("EBADF", "use", this.path);
    const done = new Promise((resolve, reject) => begin((error, value) => (error ? reject(error) : resolve(value))));
    const settled = done.then(() => {}, () => {}).then(() => this.#pending.delete(settled));
    this.#pending.add(settled);
    return done;
  }

  async read(buffer, offset, length, position) {
    return { bytesRead: await this.#doing((done) => fs.read(this.#fd, buffer, offset, length, position, done)), buffer };
  }

  async write(buffer, offset, length, position) {
    const { size } = this.#stats();
    const reserved = Math.max(0, (position ?? size) + length - size); // what only replaces bytes takes no room
    this.#growth.reserve(reserved, "write", this.path);
    try {
      return { bytesWritten: await this.#doing((done) => fs.write(this.#fd, buffer, offset, length, position, done)), buffer };
    } finally {
      this.#growth.release(reserved);
      if (!this.#closed) this.#growth.changed(this.#file, this.#stats()); // else `close` does
    }
  }

  async stat() {
    return this.#stats();
  }

  async truncate(length = 0) {
    const longer = Math.max(0, length - this.#stats().size);
    this.#growth.reserve(longer, "truncate", this.path);
    try {
      fs.ftruncateSync(this.#fd, length);
    } finally {
      this.#growth.release(longer);
    }
    this.#growth.changed(this.#file, this.#stats());
  }

  async close() {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.all(this.#pending);
    const stats = fs.fstatSync(this.#fd);
    fs.closeSync(this.#fd);
    this.#growth.changed(this.#file, stats);
    this.#growth.closed(this.#file, stats);
  }
}

// `allowed` is how many bytes larger the folder may become; null: any number.
export function folderProvider(sdk, root, allowed) {
  return new (class extends sdk.VirtualProvider {
    #growth = new Growth(allowed);
    // Held open: a guest that can change the folder above this one must not swap it either.
    #root = LINUX ? `/proc/self/fd/${fs.openSync(root, O_PATH | O_DIRECTORY)}` : fs.realpathSync(root);

    get readonly() {
      return false;
    }

    get supportsSymlinks() {
      return true;
    }

    get supportsWatch() {
      return false;
    }

    // Call `use` with a path to the folder of this name, which no rename changes meanwhile, and no symlink is part of.
    #inFolder(names, use) {
      const held = [];
      try {
        let folder = this.#root;
        for (const name of names) {
          if (name === "..") throw failure("ENOENT", "open", name);
          if (LINUX) {
            held.push(fs.openSync(`${folder}/${name}`, O_PATH | O_DIRECTORY | O_NOFOLLOW));
            folder = `/proc/self/fd/${held.at(-1)}`;
          } else {
            // Nothing of the guest's happens before this call has ended.
            folder = `${folder}/${name}`;
            if (!fs.lstatSync(folder).isDirectory()) throw failure("ENOTDIR", "open", name);
          }
        }
        return use(folder);
      } finally {
        for (const fd of held) fs.closeSync(fd);
      }
    }

    // The same for a path's folder and its last part, which may be anything, or not there; of a symlink it means the symlink.
    #at(path, use) {
      const names = path.split("/").filter((name) => name !== "" && name !== ".");
      const last = names.pop() ?? ".";
      if (last === "..") throw failure("ENOENT", "open", path);
      return this.#inFolder(names, (folder) => use(`${folder}/${last}`));
    }

    #named(operation, path, make) {
      this.#growth.reserve(NAME_BYTES, operation, path);
      try {
        return this.#at(path, make);
      } catch (error) {
        this.#growth.release(NAME_BYTES);
        throw error;
      }
    }

    #openAt(real, path, flags, mode) {
      const there = fs.lstatSync(real, { throwIfNoEntry: false });
      // Others have no business here, and a pipe would wait for its other end.
      if (there !== undefined && !there.isFile()) throw failure(there.isSymbolicLink() ? "ELOOP" : "EACCES", "open", path);
      const names = there === undefined && FLAGS[flags] & O_CREAT ? NAME_BYTES : 0;
      this.#growth.reserve(names, "open", path);
      try {
        const fd = fs.openSync(real, (FLAGS[flags] & ~O_TRUNC) | O_NOFOLLOW | O_NONBLOCK, mode);
        return new FileHandle(path, flags, mode ?? 0o644, fd, this.#growth);
      } catch (error) {
        this.#growth.release(names);
        throw error;
      }
    }

    async open(path, flags, mode) {
      if (!(flags in FLAGS)) throw failure("EINVAL", "open", path);
      const handle = this.#at(path, (real) => this.#openAt(real, path, flags, mode));
      if (FLAGS[flags] & O_TRUNC) await handle.truncate(0);
      return handle;
    }

    async stat(path) {
      return this.lstatSync(path);
    }

    statSync(path) {
      return this.lstatSync(path);
    }

    async lstat(path) {
      return this.lstatSync(path);
    }

    lstatSync(path) {
      return this.#at(path, (real) => fs.lstatSync(real));
    }

    async readdir(path, options) {
      const names = path.split("/").filter((name) => name !== "" && name !== ".");
      return this.#inFolder(names, (folder) => fs.readdirSync(`${folder}/.`, options));
    }

    async mkdir(path, options) {
      this.#named("mkdir", path, (real) => fs.mkdirSync(real, { mode: options?.mode }));
    }

    async rmdir(path) {
      this.#at(path, (real) => fs.rmdirSync(real));
      this.#growth.release(NAME_BYTES);
    }

    async unlink(path) {
      this.#at(path, (real) => {
        const stats = fs.lstatSync(real);
        fs.unlinkSync(real);
        this.#growth.unnamed(stats);
      });
    }

    async rename(from, to) {
      this.#at(from, (old) =>
        this.#at(to, (made) => {
          const stats = fs.lstatSync(old);
          const replaced = fs.lstatSync(made, { throwIfNoEntry: false });
          fs.renameSync(old, made);
          // Two names of one file stay two.
          if (replaced !== undefined && (replaced.ino !== stats.ino || replaced.dev !== stats.dev)) this.#growth.unnamed(replaced);
        }),
      );
    }

    async link(from, to) {
      this.#named("link", to, (made) =>
        this.#at(from, (old) => {
          // macOS would link what a symlink leads to.
          if (!fs.lstatSync(old).isFile()) throw failure("EPERM", "link", from);
          fs.linkSync(old, made);
        }),
      );
    }

    async symlink(target, path) {
      this.#named("symlink", path, (real) => fs.symlinkSync(target, real));
    }

    async readlink(path) {
      return this.#at(path, (real) => fs.readlinkSync(real));
    }

    async realpath(path) {
      return path;
    }

    realpathSync(path) {
      return path;
    }

    async access(path, mode) {
      this.#at(path, (real) => {
        if (!fs.lstatSync(real).isSymbolicLink()) fs.accessSync(real, mode);
      });
    }

    async truncate(path, length) {
      const handle = await this.open(path, "r+");
      try {
        await handle.truncate(length);
      } finally {
        await handle.close();
      }
    }

    async statfs() {
      const { type: _, ...stats } = fs.statfsSync(`${this.#root}/.`);
      return { ...stats, frsize: stats.bsize, namelen: 255 };
    }
  })();
}
