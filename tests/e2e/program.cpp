// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/program.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

extern char** environ;

namespace spillway::e2e {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr)
    throw std::runtime_error(std::string(name) + " is not set; run the tests through meson or ./dev");
  return value;
}

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    read = ends[0];
    write = ends[1];
  }
};

/// stdin comes from a file, so that no writer is needed beside the reader.
pid_t spawn(const std::vector<std::string>& command, std::string_view input, int out, int err) {
  const int in = ::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  for (std::string_view rest = input; !rest.empty();) {
    const ssize_t written = ::write(in, rest.data(), rest.size());
    if (written <= 0) throw std::runtime_error("cannot write stdin's file");
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  ::lseek(in, 0, SEEK_SET);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in, 0);
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  posix_spawn_file_actions_adddup2(&actions, err, 2);
  std::vector<char*> arguments;
  for (const std::string& each : command) arguments.push_back(const_cast<char*>(each.c_str()));
  arguments.push_back(nullptr);
  // Whoever runs the tests may ignore SIGINT (a shell's background job does), and that is inherited.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t defaults;
  sigemptyset(&defaults);
  for (const int number : {SIGINT, SIGTERM, SIGPIPE}) sigaddset(&defaults, number);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  pid_t pid = -1;
  const int failed = ::posix_spawnp(&pid, arguments[0], &actions, &attributes, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(in);
  if (failed != 0) throw std::runtime_error("cannot start " + command[0]);
  return pid;
}

int wait_code(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/// Reads both to their ends.
void drain(int out, int err, std::string& out_text, std::string& err_text) {
  std::array<pollfd, 2> fds = {pollfd{.fd = out, .events = POLLIN, .revents = 0},
                               pollfd{.fd = err, .events = POLLIN, .revents = 0}};
  std::array<std::string*, 2> texts = {&out_text, &err_text};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;
    for (std::size_t i = 0; i < fds.size(); ++i) {
      if (fds[i].fd < 0 || fds[i].revents == 0) continue;
      char bytes[65536];
      const ssize_t count = ::read(fds[i].fd, bytes, sizeof bytes);
      if (count > 0) {
        texts[i]->append(bytes, static_cast<std::size_t>(count));
      } else {
        fds[i].fd = -1;
      }
    }
  }
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// Byte-level BPE without merges: token id = byte, for ASCII.
std::string ascii_tokenizer() {
  json::object vocabulary;
  int moved = 0;  // bytes that are no printable character are written as U+0100 and up
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = printable ? byte : 256 + moved++;
    if (byte >= 128) continue;
    std::string character;
    if (code < 128) {
      character = static_cast<char>(code);
    } else {
      character = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
    }
    vocabulary[character] = byte;
  }
  const json::value level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const json::value model = {{"type", "BPE"},          {"dropout", nullptr},
                             {"unk_token", nullptr},   {"fuse_unk", false},
                             {"byte_fallback", false}, {"vocab", std::move(vocabulary)},
                             {"merges", json::array()}};
  return json::serialize(json::value{{"version", "1.0"},
                                     {"added_tokens", json::array()},
                                     {"normalizer", nullptr},
                                     {"pre_tokenizer", level},
                                     {"post_processor", nullptr},
                                     {"decoder", level},
                                     {"model", model}});
}

constexpr std::string_view kChatTemplate =
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}";

}  // namespace

Ran run_program(const std::vector<std::string>& command, std::string_view input) {
  Pipe out, err;
  const pid_t pid = spawn(command, input, out.write, err.write);
  ::close(out.write);
  ::close(err.write);
  Ran ran;
  drain(out.read, err.read, ran.out, ran.err);
  ::close(out.read);
  ::close(err.read);
  ran.code = wait_code(pid);
  return ran;
}

Ran spillway(std::vector<std::string> arguments, std::string_view input) {
  arguments.insert(arguments.begin(), environment("SPILLWAY"));
  return run_program(arguments, input);
}

Running::Running(std::vector<std::string> arguments, std::string_view input) {
  arguments.insert(arguments.begin(), environment("SPILLWAY"));
  Pipe out, err;
  pid_ = spawn(arguments, input, out.write, err.write);
  ::close(out.write);
  ::close(err.write);
  out_ = out.read;
  err_ = err.read;
}

Running::~Running() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    static_cast<void>(wait_code(pid_));
  }
  if (out_ >= 0) ::close(out_);
  if (err_ >= 0) ::close(err_);
}

std::string Running::read_until(std::string_view text) {
  char byte[4096];
  while (read_.find(text) == std::string::npos) {
    const ssize_t count = ::read(out_, byte, sizeof byte);
    if (count <= 0) break;
    read_.append(byte, static_cast<std::size_t>(count));
  }
  return read_;
}

void Running::signal(int number) const { ::kill(pid_, number); }

void Running::close_stdout() {
  ::close(out_);
  out_ = -1;
}

Ran Running::finish() {
  Ran ran{.code = -1, .out = read_, .err = ""};
  drain(out_, err_, ran.out, ran.err);
  ran.code = wait_code(pid_);
  pid_ = -1;
  return ran;
}

fs::path source_root() { return environment("SPILLWAY_SOURCE"); }

const fs::path& scratch() {
  struct Directory {
    fs::path path;
    Directory() {
      std::string name = (fs::temp_directory_path() / "spillway-e2e-XXXXXX").string();
      if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
      path = name;
    }
    ~Directory() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  };
  static const Directory directory;
  return directory.path;
}

fs::path write_file(const std::string& name, std::string_view text) {
  const fs::path path = scratch() / name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

fs::path tiny_model(const std::string& name, int context) {
  const fs::path target = scratch() / (name + "-" + std::to_string(context));
  if (fs::exists(target)) return target;
  const fs::path source = source_root() / "tests/data/models" / name;
  fs::create_directory(target);
  for (const fs::directory_entry& file : fs::directory_iterator(source)) {
    if (file.path().extension() != ".txt") fs::copy(file.path(), target);
  }
  if (context != 0) {
    json::value config = json::parse(read_file(source / "config.json"));
    config.as_object()["max_position_embeddings"] = context;
    fs::remove(target / "config.json");
    std::ofstream(target / "config.json") << json::serialize(config);
  }
  std::ofstream(target / "tokenizer.json") << ascii_tokenizer();
  std::ofstream(target / "tokenizer_config.json") << json::serialize(json::value{{"chat_template", kChatTemplate}});
  return target;
}

fs::path real_model() {
  const fs::path path = source_root() / "models/SmolLM2-135M-Instruct.Q4_1.gguf";
  return fs::exists(path) ? path : fs::path();
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace spillway::e2e
