// SPDX-License-Identifier: Apache-2.0
#include "cli/stats.hpp"

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <utility>

#include "cli/values.hpp"

namespace spillway::cli {
namespace {

double process_start_s = 0;  // CLOCK_BOOTTIME; written once at the start of main

double boot_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double seconds(runtime::Duration duration) { return std::chrono::duration<double>(duration).count(); }

template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

/// Time that lies in at least one of the intervals: a person's pauses between two questions do not count.
double covered_seconds(std::vector<std::pair<runtime::TimePoint, runtime::TimePoint>> intervals) {
  std::sort(intervals.begin(), intervals.end());
  runtime::Duration covered{};
  runtime::TimePoint until = runtime::TimePoint::min();
  for (const auto& [begin, end] : intervals) {
    if (end > std::max(begin, until)) covered += end - std::max(begin, until);
    until = std::max(until, end);
  }
  return seconds(covered);
}

void line(std::string& out, const char* name, const std::string& text) {
  out += format("%-14s", name) + text + "\n";
}

std::string counted(std::uint64_t count, const char* noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

}  // namespace

void note_process_start() {
  process_start_s = boot_seconds();
  // Field 22 of /proc/self/stat (proc(5)): start time in clock ticks since boot. Fields are counted after the
  // command's name, which may hold anything, spaces and parentheses included.
  std::ifstream file("/proc/self/stat");
  std::string text;
  if (!std::getline(file, text) || text.rfind(')') == std::string::npos) return;
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string field;
  for (int i = 3; i < 22; ++i) fields >> field;
  double ticks = 0;
  if (fields >> ticks)
    process_start_s = std::min(process_start_s, ticks / static_cast<double>(::sysconf(_SC_CLK_TCK)));
}

double seconds_since_process_start() { return boot_seconds() - process_start_s; }

std::uint64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

JobTotals totals_of(const std::vector<Answer>& answers) {
  JobTotals totals;
  runtime::TimePoint first_token = runtime::TimePoint::max(), end{};
  std::vector<std::pair<runtime::TimePoint, runtime::TimePoint>> busy;
  std::size_t with_tokens = 0;
  for (const Answer& answer : answers) {
    ++totals.requests;
    bool failed = answer.refused.has_value();
    for (const ChoiceAnswer& choice : answer.choices) {
      ++totals.choices;
      failed = failed || choice.error.has_value();
      totals.completion_tokens += choice.usage.completion_tokens;
    }
    if (!answer.choices.empty()) {  // the choices share one prompt
      totals.prompt_tokens += answer.choices.front().usage.prompt_tokens;
      totals.cached_tokens += answer.choices.front().usage.cached_tokens;
    }
    totals.failed += failed ? 1 : 0;
    busy.emplace_back(answer.submitted, answer.end);
    end = std::max(end, answer.end);
    if (answer.first_token == runtime::TimePoint{}) continue;
    const double wait_s = seconds(answer.first_token - answer.submitted);
    totals.first_token_min_s = with_tokens == 0 ? wait_s : std::min(totals.first_token_min_s, wait_s);
    totals.first_token_max_s = std::max(totals.first_token_max_s, wait_s);
    totals.first_token_mean_s += wait_s;
    if (with_tokens == 0 || answer.first_token_process_s < totals.first_token_process_s) {
      totals.first_token_process_s = answer.first_token_process_s;
    }
    first_token = std::min(first_token, answer.first_token);
    ++with_tokens;
  }
  if (with_tokens != 0) {
    totals.first_token_mean_s /= static_cast<double>(with_tokens);
    totals.decode_s = std::max(0.0, seconds(end - first_token));
  }
  totals.busy_s = covered_seconds(std::move(busy));
  return totals;
}

std::string seed_text(std::uint64_t seed) {
  std::string out;
  line(out, "seed", std::to_string(seed));
  return out;
}

std::string stats_text(const JobTotals& totals, const actors::ServingStats& serving, const Engine& engine) {
  std::string out;
  const bool single = totals.choices == 1;
  if (totals.requests > 1) {
    line(out, "requests",
         std::to_string(totals.requests) +
             (totals.failed != 0 ? ", " + std::to_string(totals.failed) + " failed" : ""));
  }
  line(out, "prompt",
       counted(totals.prompt_tokens, "token") + ", " + std::to_string(totals.cached_tokens) +
           " from the prefix cache");
  if (totals.first_token_process_s > 0) {
    std::string text = format("%.3f s after the process started, ", totals.first_token_process_s);
    text += single ? format("%.3f s after the request", totals.first_token_mean_s)
                   : format("%.3f / %.3f / %.3f s after their request (least, mean, most)",
                            totals.first_token_min_s, totals.first_token_mean_s, totals.first_token_max_s);
    line(out, "first token", text);
  }
  // A single answer's rate is that of decoding alone; of several, prompts and answers overlap.
  std::string answer = counted(totals.completion_tokens, "token");
  if (single && totals.completion_tokens > 1 && totals.decode_s > 0) {
    answer += format(" in %.3f s after the first: %.1f tokens/s", totals.decode_s,
                     static_cast<double>(totals.completion_tokens - 1) / totals.decode_s);
  } else if (!single && totals.busy_s > 0) {
    answer += format(" in %.3f s: %.1f tokens/s, %.1f with the prompts'", totals.busy_s,
                     static_cast<double>(totals.completion_tokens) / totals.busy_s,
                     static_cast<double>(totals.completion_tokens + totals.prompt_tokens) / totals.busy_s);
  }
  line(out, single ? "answer" : "answers", answer);
  line(out, "steps",
       std::to_string(serving.scheduler.steps) + ", at most " +
           std::to_string(serving.scheduler.running_peak) + " sequences in one; " +
           counted(serving.scheduler.preemptions, "preemption") + ", " +
           std::to_string(serving.scheduler.recomputed_tokens) + " tokens recomputed");
  if (engine.options().sparse_kv.on() || engine.options().sparse_kv_per_request) {
    const actors::BlockManagerStats& blocks = serving.block_manager;
    line(out, "sparse KV", counted(blocks.tokens_evicted, "token") + " evicted, " +
                               counted(blocks.slots_reused, "slot") + " reused; " +
                               counted(blocks.compactions, "compaction") + ", " +
                               counted(blocks.blocks_copied, "block") + " copied" +
                               (blocks.tokens_evicted == 0 ? "; exact" : "; not exact"));
  }
  line(out, "memory",
       bytes_text(peak_memory_bytes()) + " at most; KV cache " +
           bytes_text(std::uint64_t{engine.device().num_blocks} * engine.device().kv_block_bytes) + ", " +
           std::to_string(engine.device().num_blocks) + " blocks of " +
           counted(engine.options().block_size, "token"));
  line(out, "device", engine.device().name);
  return out;
}

}  // namespace spillway::cli
