// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/packed_matrix.hpp"

#include <string>
#include <vector>

#include "gpu/host/matmul.hpp"
#include "tests/gpu/random_weights.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::gpu::host;
using spillway::test::kAllDTypes;
using spillway::test::RandomTensor;

TEST_CASE("packed matrix: embed_row gives back the file's values exactly") {
  ThreadTeam team(2);
  for (model::DType dtype : kAllDTypes) {
    WeightArena arena(1 << 20);
    const std::size_t cols = model::block_elements(dtype) > 1 ? 96 : 35;
    const RandomTensor weight(dtype, 37, cols, 5);
    Result<PackedMatrix> matrix = PackedMatrix::pack(weight.view(), {}, arena, team);
    REQUIRE(matrix.ok());
    CHECK(matrix->rows() == 37);
    CHECK(matrix->cols() == cols);
    CHECK(matrix->group_count() == 3);
    std::vector<float> row(cols);
    bool equal = true;
    for (std::size_t i = 0; i < 37; ++i) {
      matrix->embed_row(i, row.data());
      // d*q has at most 11 + 8 significant bits; adding m may round, once.
      for (std::size_t k = 0; k < cols; ++k) equal &= row[k] == static_cast<float>(weight.at(i, k));
    }
    INFO(to_string(dtype));
    CHECK(equal);
  }
}

TEST_CASE("packed matrix: packing keeps the stored precision and its size") {
  ThreadTeam team(1);
  struct Case {
    model::DType dtype;
    std::size_t bytes;  // of 32 rows x 64 columns; quantized ones have their largest magnitudes besides
  };
  for (const Case& c :
       {Case{model::DType::kQ4_0, 32 * 2 * 18 + 32 * 4}, Case{model::DType::kQ4_1, 32 * 2 * 20 + 32 * 4},
        Case{model::DType::kQ8_0, 32 * 2 * 34 + 32 * 4}, Case{model::DType::kQ5_0, 32 * 2 * 34 + 32 * 4},
        Case{model::DType::kQ5_1, 32 * 2 * 36 + 32 * 4}, Case{model::DType::kF16, 32 * 64 * 2},
        Case{model::DType::kBF16, 32 * 64 * 2}, Case{model::DType::kF32, 32 * 64 * 4}}) {
    WeightArena arena(1 << 20);
    const RandomTensor weight(c.dtype, 32, 64, 5);
    Result<PackedMatrix> matrix = PackedMatrix::pack(weight.view(), {}, arena, team);
    REQUIRE(matrix.ok());
    INFO(to_string(c.dtype));
    CHECK(matrix->packed_bytes() == c.bytes);
    CHECK(arena.allocated_bytes() == c.bytes);
  }
}

TEST_CASE("packed matrix: neighbouring rotary pairs are put back into halves, head by head") {
  ThreadTeam team(1);
  WeightArena arena(1 << 20);
  const std::uint32_t head_dim = 10;
  const std::uint32_t rotary_dim = 8;
  const RandomTensor weight(model::DType::kF32, 2 * head_dim, 3, 5);
  const RowOrder order{RowOrder::Kind::kPairsToHalves, head_dim, rotary_dim};
  Result<PackedMatrix> matrix = PackedMatrix::pack(weight.view(), order, arena, team);
  REQUIRE(matrix.ok());
  const std::size_t expected[] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 9};
  for (std::size_t head = 0; head < 2; ++head) {
    for (std::size_t i = 0; i < head_dim; ++i) {
      float row[3];
      matrix->embed_row(head * head_dim + i, row);
      CHECK(row[1] == static_cast<float>(weight.at(head * head_dim + expected[i], 1)));
    }
  }
}

TEST_CASE("packed matrix: a bias follows its rows' order") {
  ThreadTeam team(1);
  WeightArena arena(1 << 20);
  const RandomTensor weight(model::DType::kF32, 4, 1, 5);
  const RandomTensor bias(model::DType::kF16, 1, 4, 6);
  const model::TensorView weight_view = weight.view();
  const model::TensorView bias_view = bias.view();
  const ProductPart part{&weight_view, &bias_view, {RowOrder::Kind::kPairsToHalves, 4, 4}};
  Result<PackedProduct> product = PackedProduct::pack({&part, 1}, arena, team);
  REQUIRE(product.ok());
  const float zero = 0;
  float y[4];
  team.run([&](TeamMember& member) {
    matmul(member, matmul_kernels(CpuTarget::kScalar), *product, {nullptr, &zero, 1}, 1, y, 4);
  });
  const std::size_t source[] = {0, 2, 1, 3};
  for (std::size_t i = 0; i < 4; ++i) CHECK(y[i] == static_cast<float>(bias.at(0, source[i])));
}

TEST_CASE("packed matrix: the loader hears of each tensor once it is packed") {
  ThreadTeam team(1);
  WeightArena arena(1 << 20);
  const RandomTensor a(model::DType::kQ4_1, 16, 32, 1);
  const RandomTensor b(model::DType::kQ8_0, 16, 32, 2);
  const model::TensorView views[] = {a.view(), b.view()};
  const ProductPart parts[] = {{&views[0], nullptr, {}}, {&views[1], nullptr, {}}};
  std::vector<const void*> packed;
  REQUIRE(PackedProduct::pack(parts, arena, team, [&](const model::TensorView& t) {
            packed.push_back(t.data.data());
          }).ok());
  CHECK(packed == std::vector<const void*>{views[0].data.data(), views[1].data.data()});
}

TEST_CASE("packed matrix: data that does not fit its shape is refused by name") {
  ThreadTeam team(1);
  WeightArena arena(1 << 20);
  const RandomTensor weight(model::DType::kQ4_1, 16, 64, 1);
  SECTION("short data") {
    model::TensorView view = weight.view();
    view.data = view.data.first(view.data.size() - 1);
    const Result<PackedMatrix> matrix = PackedMatrix::pack(view, {}, arena, team);
    REQUIRE_FALSE(matrix.ok());
    CHECK(matrix.error().code == Errc::kBadFile);
    CHECK(matrix.error().message.find("random Q4_1") != std::string::npos);
  }
  SECTION("a shape whose size overflows") {
    model::TensorView view = weight.view();
    view.shape = {std::uint64_t{1} << 60, 64};
    CHECK_FALSE(PackedMatrix::pack(view, {}, arena, team).ok());
  }
  SECTION("columns that are not whole blocks") {
    model::TensorView view = weight.view();
    view.shape = {16, 48};
    const Result<PackedMatrix> matrix = PackedMatrix::pack(view, {}, arena, team);
    REQUIRE_FALSE(matrix.ok());
    CHECK(matrix.error().code == Errc::kUnsupported);
  }
  SECTION("rows that are not whole heads") {
    const RowOrder order{RowOrder::Kind::kPairsToHalves, 12, 12};
    CHECK_FALSE(PackedMatrix::pack(weight.view(), order, arena, team).ok());
  }
  SECTION("no data") { CHECK_FALSE(PackedMatrix::pack(model::TensorView{}, {}, arena, team).ok()); }
}

TEST_CASE("weight arena: memory is aligned, zeroed and distinct, across chunks") {
  WeightArena arena(4096);
  std::vector<std::byte*> blocks;
  bool fresh = true;
  for (std::size_t i = 0; i < 5; ++i) {
    const std::size_t bytes = (std::size_t{1} << 20) * (i + 1) + 1;
    Result<std::byte*> memory = arena.allocate(bytes);
    REQUIRE(memory.ok());
    CHECK(reinterpret_cast<std::uintptr_t>(*memory) % 64 == 0);
    fresh &= (*memory)[0] == std::byte{0} && (*memory)[bytes - 1] == std::byte{0};
    (*memory)[0] = (*memory)[bytes - 1] = std::byte{1};
  }
  CHECK(fresh);
}
