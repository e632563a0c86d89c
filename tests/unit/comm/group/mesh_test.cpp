// SPDX-License-Identifier: BSD-3-Clause
// A grid of ranks with named dimensions, over ranks that are threads.
#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/core/error.h>

#include <numeric>
#include <string>
#include <vector>

#include "comm/collective/operation.h"
#include "comm/group/group_core.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using Dimensions = std::vector<Mesh::Dimension>;

/// The ranks of the whole group that are in `group`, in its order.
std::vector<std::int64_t> members_of(ProcessGroup& group, int rank) {
  const auto all = torch::empty({group.size()}, torch::kLong);
  group.all_gather(all, torch::full({1}, rank, torch::kLong)).wait();
  const auto* numbers = all.const_data_ptr<std::int64_t>();
  return {numbers, numbers + group.size()};
}

/// Each rank's index along each dimension, by counting: the last dimension first.
std::vector<int> indices_by_counting(int rank, const Dimensions& dimensions) {
  std::vector<int> indices(dimensions.size(), 0);
  for (int i = 0; i < rank; ++i) {
    for (std::size_t d = dimensions.size(); d-- > 0;) {
      if (++indices[d] < dimensions[d].size) break;
      indices[d] = 0;
    }
  }
  return indices;
}

/// All ranks that differ from `rank` in dimension `along` alone.
std::vector<std::int64_t> neighbours(int rank, const Dimensions& dimensions, std::size_t along) {
  auto own = indices_by_counting(rank, dimensions);
  own[along] = 0;
  int ranks = 1;
  for (const auto& dimension : dimensions) ranks *= dimension.size;
  std::vector<std::int64_t> found;
  for (int other = 0; other < ranks; ++other) {
    auto indices = indices_by_counting(other, dimensions);
    indices[along] = 0;
    if (indices == own) found.push_back(other);
  }
  return found;
}

class MeshOf : public ::testing::TestWithParam<Dimensions> {
 protected:
  [[nodiscard]] static int ranks() {
    int ranks = 1;
    for (const auto& dimension : GetParam()) ranks *= dimension.size;
    return ranks;
  }
};
INSTANTIATE_TEST_SUITE_P(
    Shapes, MeshOf,
    ::testing::Values(Dimensions{{"data", 1}}, Dimensions{{"stage", 1}, {"data", 1}},
                      Dimensions{{"stage", 2}, {"data", 1}}, Dimensions{{"stage", 1}, {"data", 3}},
                      Dimensions{{"data", 3}}, Dimensions{{"stage", 2}, {"data", 2}},
                      Dimensions{{"stage", 2}, {"data", 3}},
                      Dimensions{{"stage", 2}, {"data", 1}, {"tensor", 2}}));

TEST_P(MeshOf, GroupsContainTheRanksThatDifferInOneDimensionInRowMajorOrder) {
  run_ranks_or_throw(ranks(), [](const std::shared_ptr<ProcessGroup>& group) {
    const Dimensions dimensions = GetParam();
    Mesh mesh(group, dimensions);
    const auto indices = indices_by_counting(group->rank(), dimensions);
    std::vector<std::string> names;
    for (std::size_t d = 0; d < dimensions.size(); ++d) {
      const auto& [name, size] = dimensions[d];
      names.push_back(name);
      EXPECT_EQ(mesh.size(name), size);
      EXPECT_EQ(mesh.index(name), indices[d]) << name << " of rank " << group->rank();
      EXPECT_EQ(mesh.group(name)->size(), size);
      EXPECT_EQ(mesh.group(name)->rank(), indices[d]);
      EXPECT_EQ(members_of(*mesh.group(name), group->rank()),
                neighbours(group->rank(), dimensions, d));
    }
    EXPECT_EQ(mesh.names(), names);
    mesh.close();
    EXPECT_TRUE(mesh.group(names.front())->is_closed());
    mesh.close();  // closed groups stay as they are
    EXPECT_FALSE(group->is_closed());
    group->close();
  });
}

class MeshRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, MeshRanks, ::testing::Values(1, 2, 3, 4));

TEST_P(MeshRanks, WrongDimensionsAreAnErrorOnAllRanksAndTheGroupStaysUsable) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const int ranks = group->size();
    const auto refuse = [&](const Dimensions& dimensions, const std::string& part) {
      expect_refusal([&] { Mesh mesh(group, dimensions); }, part);
    };
    const std::string count = std::to_string(ranks);
    refuse({}, "there are no dimensions");
    refuse({{"stage", 2}, {"data", ranks}},
           R"({"stage": 2, "data": )" + count + "} do not fit the group");
    refuse({{"data", ranks + 1}}, "product must be its number of ranks, " + count);
    refuse({{"stage", 1}, {"stage", ranks}}, "the name 'stage' stands twice");
    refuse({{"", ranks}}, "is empty");
    refuse({{"data", 0}}, "the size of 'data' is 0");
    refuse({{"stage", -1}, {"data", -ranks}}, "the size of 'stage' is -1");
    // 2^32 + 1 is no 1.
    refuse({{"a", 641}, {"b", 6700417}, {"c", ranks}}, "do not fit");
    expect_refusal(
        [] {
          Mesh mesh(std::shared_ptr<ProcessGroup>(), {{"data", 1}});
        },
        "the process group is null");
    Mesh mesh(*group, {{"data", ranks}});
    const std::string part = "no dimension 'tensor'; this mesh has data";
    expect_refusal([&] { static_cast<void>(mesh.group("tensor")); }, part);
    expect_refusal([&] { static_cast<void>(mesh.index("tensor")); }, part);
    expect_refusal([&] { static_cast<void>(mesh.size("")); }, "no dimension ''");
    mesh.close();
    group->close();
  });
}

TEST(Mesh, CloseClosesTheOtherGroupsWhereOneHasFailed) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    Mesh mesh(group, {{"stage", 1}, {"data", 2}});
    GroupCore& stage = mesh.group("stage")->core();
    EXPECT_THROW(stage.fail({OperationFailure::Kind::Backend, "the cause", "", nullptr}, "test"),
                 CommError);
    EXPECT_THROW(mesh.close(), CommError);
    EXPECT_TRUE(mesh.group("data")->is_closed());
    group->close();
  });
}

TEST(Mesh, RanksThatDisagreeGetAnErrorThatShowsBothMeshes) {
  const auto errors = run_ranks(3, [](const std::shared_ptr<ProcessGroup>& group) {
    const std::string name = group->rank() == 2 ? "pipeline" : "stage";
    Mesh mesh(group, {{name, 3}});
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(
        error, R"(rank 2 made the mesh {"pipeline": 3}, rank 0 made {"stage": 3})");
  }
}

TEST(Mesh, ARankWhoseOwnDimensionsAreWrongDoesNotLeaveTheOthersWaiting) {
  const auto errors = run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    Mesh mesh(group, {{"data", 2 - group->rank()}});
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error,
                                R"(rank 1 made the mesh {"data": 1}, rank 0 made {"data": 2})");
  }
}

}  // namespace
}  // namespace lockstep::testing
