// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/gradient_arena.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <random>
#include <thread>

#include "parallel/buckets/arena_allocator.h"

namespace lockstep {
namespace {

constexpr std::size_t kBytes = 4096;
constexpr std::int64_t kElements = kBytes / sizeof(float);

std::shared_ptr<GradientArena> make_arena(const std::vector<std::size_t>& gradients) {
  const auto layout = ArenaLayout::of(gradients);
  return GradientArena::create(torch::zeros({static_cast<std::int64_t>(layout.bytes / 4)}), layout);
}

/// Makes a tensor as autograd does: its memory comes from the arena while there is a free block.
torch::Tensor allocate(const std::shared_ptr<GradientArena>& arena, std::int64_t elements) {
  allocate_in_this_thread(arena);
  auto tensor = torch::empty({elements});
  arena->close();
  return tensor;
}

bool is_in(const std::shared_ptr<GradientArena>& arena, const torch::Tensor& tensor) {
  return arena->place_of(tensor).has_value();
}

TEST(GradientArena, HasABlockForEachGradientAndSpareMemory) {
  const auto layout = ArenaLayout::of({100, 4096, 100, 64});
  ASSERT_EQ(layout.sizes.size(), 3u);
  EXPECT_EQ(layout.size_of, (std::vector<std::size_t>{0, 1, 0, 2}));
  EXPECT_EQ(layout.sizes[0].blocks, 2u);
  EXPECT_EQ(layout.sizes[1].begin, 2 * 128u) << "blocks begin on cache lines";
  EXPECT_EQ(layout.sizes[2].first, 3u);
  EXPECT_EQ(layout.spare_begin, 2 * 128u + 4096 + 64);
  EXPECT_EQ(layout.bytes, layout.spare_begin + 3 * 4096);
  const std::size_t large = std::size_t{100} << 20;
  const auto of_large = ArenaLayout::of({large});
  EXPECT_EQ(of_large.bytes, 2 * large) << "no more spare memory than a large gradient needs";
}

TEST(GradientArena, AllocatesJustTheSizesOfGradients) {
  const auto arena = make_arena({kBytes, 64});
  EXPECT_TRUE(is_in(arena, allocate(arena, kElements)));
  EXPECT_FALSE(is_in(arena, allocate(arena, kElements - 1)));
  EXPECT_FALSE(is_in(arena, allocate(arena, 16))) << "too small to be worth it";
  EXPECT_FALSE(is_in(arena, torch::empty({kElements}))) << "closed";
}

TEST(GradientArena, AllocatesOnlyInThreadsThatAskedForIt) {
  const auto arena = make_arena({kBytes});
  allocate_in_this_thread(arena);
  std::jthread([&] { EXPECT_FALSE(is_in(arena, torch::empty({kElements}))); }).join();
  EXPECT_TRUE(is_in(arena, torch::empty({kElements})));
  const auto other = make_arena({2 * kBytes});
  allocate_in_this_thread(other);
  EXPECT_TRUE(is_in(arena, torch::empty({kElements}))) << "both are open";
  EXPECT_TRUE(is_in(other, torch::empty({2 * kElements})));
  arena->close();
  EXPECT_FALSE(is_in(arena, torch::empty({kElements})));
  EXPECT_TRUE(is_in(other, torch::empty({2 * kElements})));
  other->close();
}

TEST(GradientArena, KeepsAGradientWhereItIs) {
  const auto arena = make_arena({kBytes});
  auto gradient = allocate(arena, kElements);
  const void* const data = gradient.data_ptr();
  EXPECT_TRUE(arena->try_keep(0, gradient));
  arena->end_iteration();
  EXPECT_TRUE(arena->try_keep(0, gradient)) << "accumulated on: it is still the parameter's";
  arena->end_iteration();
  gradient.reset();
  gradient = allocate(arena, kElements);
  EXPECT_EQ(gradient.data_ptr(), data) << "the block was free again";
}

TEST(GradientArena, KeepsNothingThatIsNotAWholeBlockOfItsOwn) {
  const auto arena = make_arena({kBytes, kBytes});
  const auto block = allocate(arena, kElements);
  EXPECT_FALSE(arena->try_keep(0, block.narrow(0, 0, 10)));
  EXPECT_FALSE(arena->try_keep(0, block.narrow(0, 16, kElements - 16)));
  EXPECT_FALSE(arena->try_keep(0, torch::zeros({kElements})));
  EXPECT_TRUE(arena->try_keep(0, block));
  EXPECT_FALSE(arena->try_keep(1, block)) << "another parameter has it";
  EXPECT_NE(arena->make(1, block).data_ptr(), block.data_ptr());
}

TEST(GradientArena, OverwritesAParametersLastGradientOnlyWhereItIsStillTheParameters) {
  const auto arena = make_arena({kBytes, kBytes});
  const auto last = arena->make(0, torch::zeros({kElements}));
  arena->end_iteration();
  EXPECT_EQ(arena->make(0, last, last).data_ptr(), last.data_ptr());
  arena->end_iteration();
  EXPECT_NE(arena->make(0, last).data_ptr(), last.data_ptr()) << "somebody keeps it";
  arena->end_iteration();
  const auto fresh = allocate(arena, kElements);
  ASSERT_TRUE(is_in(arena, fresh));
  EXPECT_NE(fresh.data_ptr(), last.data_ptr());
  EXPECT_TRUE(arena->try_keep(0, fresh));
  const auto of_other = arena->make(1, last);
  EXPECT_NE(of_other.data_ptr(), last.data_ptr()) << "somebody keeps it";
  EXPECT_NE(of_other.data_ptr(), fresh.data_ptr());
}

TEST(GradientArena, OutlivesNobodyButItsTensors) {
  auto arena = make_arena({kBytes});
  const std::weak_ptr<GradientArena> weak = arena;
  auto tensor = allocate(arena, kElements);
  tensor.fill_(3);
  arena.reset();
  EXPECT_FALSE(weak.expired());
  EXPECT_EQ(tensor.sum().item<float>(), 3.0F * kElements);
  tensor.reset();
  EXPECT_TRUE(weak.expired());
}

TEST(GradientArena, MovesKeptGradientsAwayWhereThereIsNoOtherBlock) {
  const auto arena = make_arena({kBytes});
  std::vector<torch::Tensor> kept;
  for (int iteration = 0; iteration < 10; ++iteration) {
    const auto gradient = arena->make(0, torch::zeros({kElements}));
    ASSERT_TRUE(is_in(arena, gradient));
    gradient.fill_(iteration);
    kept.push_back(iteration % 2 == 0 ? gradient : gradient.view({2, -1}));
    arena->end_iteration();
  }
  for (int iteration = 0; iteration < 10; ++iteration) {
    EXPECT_TRUE(torch::all(kept[static_cast<std::size_t>(iteration)] == iteration).item<bool>());
  }
}

TEST(GradientArena, IsGoneOnceItIsVacated) {
  auto arena = make_arena({kBytes, kBytes});
  const std::weak_ptr<GradientArena> weak = arena;
  const auto made = arena->make(0, torch::zeros({kElements})).fill_(3);
  const auto kept = allocate(arena, kElements).fill_(4);
  ASSERT_TRUE(arena->try_keep(1, kept));
  const auto view = kept.narrow(0, 7, 5);
  arena->vacate();
  arena.reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(made.sum().item<float>(), 3.0F * kElements);
  EXPECT_EQ(kept.sum().item<float>(), 4.0F * kElements);
  EXPECT_EQ(view.sum().item<float>(), 20);
}

TEST(GradientArena, AllocatesPointersWithoutOwnersToo) {
  const auto arena = make_arena({kBytes});
  allocate_in_this_thread(arena);
  c10::Allocator* const allocator = c10::GetCPUAllocator();
  void* const block = allocator->raw_allocate(kBytes);
  void* const ordinary = allocator->raw_allocate(kBytes + 1);
  arena->close();
  const auto view = torch::from_blob(block, {kElements});
  EXPECT_TRUE(is_in(arena, view));
  allocator->raw_deallocate(block);
  allocator->raw_deallocate(ordinary);
  EXPECT_EQ(allocate(arena, kElements).data_ptr(), block) << "it was freed";
}

/// Whatever a program allocates, keeps and drops, each gradient finds memory of its own, and no
/// tensor loses its values.
class GradientArenaAtRandom : public ::testing::TestWithParam<unsigned> {
 protected:
  static constexpr std::size_t kParameters = 6;

  void allocate_something() {
    const std::int64_t elements = pick(2) == 0 ? kElements : 2 * kElements;
    auto tensor = allocate(arena_, elements);
    tensor.fill_(static_cast<float>(++stamp_));
    kept_.emplace_back(tensor, stamp_);
  }
  void drop_something() {
    if (kept_.empty()) return;
    kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(pick(kept_.size())));
  }
  void fill(std::size_t parameter) {
    const std::int64_t elements = parameter < 3 ? kElements : 2 * kElements;
    auto gradient = allocate(arena_, elements);
    const float value = static_cast<float>(++stamp_);
    gradient.fill_(value);
    if (!arena_->try_keep(parameter, gradient)) {
      gradient = arena_->make(parameter, gradient);
      gradient.fill_(value);
    }
    EXPECT_TRUE(is_in(arena_, gradient));
    current_[parameter] = {gradient, stamp_};
  }
  void end_iteration() {
    for (auto& [parameter, gradient] : current_) {
      // Some keep it, for good; others have none in the next backward.
      if (pick(8) == 0) held_.push_back(gradient);
      if (pick(2) == 0) gradient.first.reset();
    }
    std::erase_if(current_, [](const auto& item) { return !item.second.first.defined(); });
    arena_->end_iteration();
  }
  void check() {
    for (const auto& [tensor, stamp] : kept_) {
      ASSERT_TRUE(torch::all(tensor == static_cast<float>(stamp)).item<bool>());
    }
    for (const auto& [parameter, gradient] : current_) {
      ASSERT_TRUE(torch::all(gradient.first == static_cast<float>(gradient.second)).item<bool>());
    }
    for (const auto& [gradient, stamp] : held_) {
      ASSERT_TRUE(torch::all(gradient == static_cast<float>(stamp)).item<bool>());
    }
  }
  std::size_t pick(std::size_t count) { return random_() % count; }

  std::mt19937 random_{GetParam()};
  std::shared_ptr<GradientArena> arena_ =
      make_arena({kBytes, kBytes, kBytes, 2 * kBytes, 2 * kBytes, 2 * kBytes});
  int stamp_ = 0;
  std::vector<std::pair<torch::Tensor, int>> kept_;  // no gradients
  std::vector<std::pair<torch::Tensor, int>> held_;  // old gradients
  std::map<std::size_t, std::pair<torch::Tensor, int>> current_;
};
INSTANTIATE_TEST_SUITE_P(Seeds, GradientArenaAtRandom, ::testing::Range(0u, 10u));

TEST_P(GradientArenaAtRandom, EachGradientFindsItsBlock) {
  std::size_t allocated = 0;
  for (int iteration = 0; iteration < 100; ++iteration) {
    std::vector<std::size_t> order{0, 1, 2, 3, 4, 5};
    std::shuffle(order.begin(), order.end(), random_);
    for (const std::size_t parameter : order) {
      while (pick(3) != 0) pick(2) == 0 ? allocate_something() : drop_something();
      fill(parameter);
      check();
      if (HasFailure()) return;
    }
    for (const auto& [tensor, stamp] : kept_) {
      if (is_in(arena_, tensor)) ++allocated;
    }
    end_iteration();
    if (held_.size() > 4) held_.clear();
  }
  EXPECT_GT(allocated, 20u) << "the test kept nothing of the arena's";
}

}  // namespace
}  // namespace lockstep
