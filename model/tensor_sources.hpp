// SPDX-License-Identifier: Apache-2.0
#pragma once

// The two kinds of weight file as a TensorSource. Both borrow the file.

#include <string>
#include <string_view>
#include <vector>

#include "model/weight_map.hpp"

namespace spillway::model {

class GgufFile;
class SafetensorsModel;

class GgufSource final : public TensorSource {
 public:
  explicit GgufSource(const GgufFile& file) : file_(file) {}
  [[nodiscard]] bool has(std::string_view name) const override;
  [[nodiscard]] Result<TensorView> tensor(std::string_view name) const override;
  [[nodiscard]] std::vector<std::string_view> names() const override;
  [[nodiscard]] std::string place(std::string_view name) const override;

 private:
  const GgufFile& file_;
};

class SafetensorsSource final : public TensorSource {
 public:
  explicit SafetensorsSource(const SafetensorsModel& files) : files_(files) {}
  [[nodiscard]] bool has(std::string_view name) const override;
  [[nodiscard]] Result<TensorView> tensor(std::string_view name) const override;
  [[nodiscard]] std::vector<std::string_view> names() const override;
  [[nodiscard]] std::string place(std::string_view name) const override;

 private:
  const SafetensorsModel& files_;
};

}  // namespace spillway::model
