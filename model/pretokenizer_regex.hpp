// SPDX-License-Identifier: Apache-2.0
#pragma once

// Regular expressions as tokenizer files write them (Oniguruma's dialect), run by PCRE2 with JIT.
//
// The dialects agree on what tokenizers use, except: \s is Unicode's White_Space here as there (PCRE2's own
// \s takes U+180E in), and \h and && in a class mean something else in PCRE2, so they are refused. Character
// classes follow Unicode 14. Every match has a step limit: a pattern made to explode ends as "no match".

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/result.hpp"

namespace spillway::model {

class Regex {
 public:
  /// kBadFile or kUnsupported with the pattern and the place in it. `literal`: no metacharacters.
  [[nodiscard]] static Result<Regex> compile(std::string_view pattern, bool literal = false);

  /// What one thread needs to match; cheap to make, used for many matches.
  class Scratch {
   public:
    explicit Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Regex;
    void* match_data_;
    void* context_;
  };

  struct Match {
    std::size_t begin, end;
  };
  /// The first match in `text` (valid UTF-8) at or after byte `from`; false if there is none.
  [[nodiscard]] bool find(std::string_view text, std::size_t from, Scratch& scratch, Match& match) const;

 private:
  struct Free {
    void operator()(void* code) const noexcept;
  };
  explicit Regex(void* code) noexcept : code_(code) {}
  std::unique_ptr<void, Free> code_;
};

}  // namespace spillway::model
