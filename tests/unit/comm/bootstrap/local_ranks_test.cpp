// SPDX-License-Identifier: BSD-3-Clause
// Ranks that are threads of one process.
#include <gtest/gtest.h>
#include <lockstep/comm/local_ranks.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/core/error.h>
#include <lockstep/training/activation_checkpoint.h>
#include <torch/torch.h>

#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>
#include <sched.h>

#include <atomic>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "comm/bootstrap/rank_threads.h"
#include "data/loader/sample_generator.h"
#include "support/expected_errors.h"
#include "support/forks.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

std::vector<torch::Device> cpus(int ranks) {
  return std::vector<torch::Device>(static_cast<std::size_t>(ranks), torch::Device(torch::kCPU));
}

LocalRanksOptions patient() {
  return LocalRanksOptions().timeout(kRankTimeout);
}

/// What `run` throws; null: nothing.
template <typename Body>
std::exception_ptr error_of_run(LocalRanks& ranks, const Body& body) {
  try {
    ranks.run(body);
    return nullptr;
  } catch (...) {
    return std::current_exception();
  }
}

class LocalRanksOf : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, LocalRanksOf, ::testing::Values(1, 2, 3, 4));

TEST_P(LocalRanksOf, EachRankHasAThreadWithItsGroupAndDevice) {
  const int size = GetParam();
  LocalRanks ranks(cpus(size), patient());
  EXPECT_EQ(ranks.size(), size);
  EXPECT_EQ(ranks.devices(), cpus(size));
  std::mutex mutex;
  std::set<std::thread::id> threads{std::this_thread::get_id()};
  for (int run = 0; run < 3; ++run) {
    ranks.run([&](ProcessGroup& group, torch::Device device) {
      EXPECT_EQ(group.size(), size);
      EXPECT_EQ(device, torch::Device(torch::kCPU));
      EXPECT_EQ(group.backend(), size == 1 ? Backend::Single : Backend::SharedMemory);
      const auto sum = torch::full({3}, group.rank() + 1.0);
      group.all_reduce(sum).wait();
      EXPECT_EQ(sum[2].item<double>(), size * (size + 1) / 2.0);
      const std::lock_guard lock(mutex);
      threads.insert(std::this_thread::get_id());
    });
    EXPECT_EQ(threads.size(), static_cast<std::size_t>(size) + 1) << "after run " << run;
    EXPECT_FALSE(ranks.failed_rank());
  }
}

TEST_P(LocalRanksOf, GroupsStayUntilTheyAreClosed) {
  const int size = GetParam();
  LocalRanks ranks(cpus(size), patient());
  std::vector<std::shared_ptr<ProcessGroup>> first(static_cast<std::size_t>(size));
  auto second = first;
  const auto collect = [](auto& groups) {
    return [&groups](const std::shared_ptr<ProcessGroup>& group, torch::Device) {
      groups[static_cast<std::size_t>(group->rank())] = group;
      group->barrier();
    };
  };
  ranks.run(collect(first));
  ranks.run(collect(second));
  EXPECT_EQ(first, second);
  ranks.close();
  EXPECT_TRUE(first.front()->is_closed());
  ranks.close();  // nothing is open
  ranks.run([&](const std::shared_ptr<ProcessGroup>& group, torch::Device) {
    EXPECT_NE(group, first[static_cast<std::size_t>(group->rank())]);
    group->close();  // a program that ends with it can run again, too
  });
  ranks.run(collect(second));
  EXPECT_NE(first.back(), second.back());
}

TEST_P(LocalRanksOf, BackwardStaysInItsThreadAndTheCallersStateIsThatOfAllRanks) {
  LocalRanks ranks(cpus(GetParam()), patient());
  const auto expect = [&](bool has_grad, bool has_autocast, torch::ScalarType dtype) {
    ranks.run([&](ProcessGroup&, torch::Device) {
      EXPECT_FALSE(c10::AutogradState::get_tls_state().get_multithreading_enabled());
      EXPECT_EQ(torch::GradMode::is_enabled(), has_grad);
      EXPECT_EQ(at::autocast::is_autocast_enabled(torch::kCPU), has_autocast);
      EXPECT_EQ(at::autocast::get_autocast_dtype(torch::kCPU), dtype);
    });
  };
  const auto usual = at::autocast::get_autocast_dtype(torch::kCPU);
  expect(true, false, usual);
  {
    const torch::NoGradGuard no_grad;
    at::autocast::set_autocast_enabled(torch::kCPU, true);
    at::autocast::set_autocast_dtype(torch::kCPU, torch::kHalf);
    expect(false, true, torch::kHalf);
    at::autocast::set_autocast_enabled(torch::kCPU, false);
    at::autocast::set_autocast_dtype(torch::kCPU, usual);
  }
  expect(true, false, usual);
  EXPECT_TRUE(c10::AutogradState::get_tls_state().get_multithreading_enabled());
}

TEST_P(LocalRanksOf, EachRankDrawsItsOwnNumbersWhateverTheOthersDo) {
  const int size = GetParam();
  LocalRanks ranks(cpus(size), patient().seed(5));
  const auto x = torch::ones({50});
  for (int run = 0; run < 2; ++run) {
    ranks.run([&](ProcessGroup& group, torch::Device) {
      auto generator = ranks.generator(group.rank());
      const auto seed = 5 + static_cast<std::uint64_t>(group.rank());
      if (run == 1) generator.set_current_seed(seed);
      auto own = torch::make_generator<torch::CPUGeneratorImpl>(seed);
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(torch::equal(torch::rand({4}), torch::rand({4}, own)));
        EXPECT_TRUE(torch::equal(torch::rand({4}, generator), torch::rand({4}, own)));
        const auto kept = torch::empty({50}).bernoulli_(0.5, own);
        EXPECT_TRUE(torch::equal(torch::dropout(x, 0.5, true), kept / 0.5));
        EXPECT_TRUE(torch::equal(torch::randperm(9), torch::randperm(9, own)));
      }
    });
  }
  expect_refusal([&] { static_cast<void>(ranks.generator(size)); },
                 "rank is " + std::to_string(size) + "; these ranks are 0 to");
}

TEST(LocalRanks, RankZeroDrawsFromTheProcessAndOthersBeginAtItsSeed) {
  torch::manual_seed(7);
  const auto expected = torch::rand({3});
  auto second = torch::make_generator<torch::CPUGeneratorImpl>(8U);
  LocalRanks ranks(cpus(2), patient());
  torch::manual_seed(7);  // before the first run is early enough
  ranks.run([&](ProcessGroup& group, torch::Device) {
    const auto drawn = torch::rand({3});
    EXPECT_TRUE(torch::equal(drawn, group.rank() == 0 ? expected : torch::rand({3}, second)));
  });
  // This thread still draws from the process's, whose first numbers rank 0 has taken.
  EXPECT_FALSE(torch::equal(torch::rand({3}), expected));
}

TEST(LocalRanks, SamplesThatRanksLoadThemselvesDoNotDependOnTheOtherRanks) {
  using data::detail::SampleGenerator;
  using Seeds = SampleGenerator::ManualSeed;
  const auto draw = [] {
    SampleGenerator::begin_sample(1, 2, 3);
    return torch::rand({4});
  };
  SampleGenerator alone(Seeds::FollowedOutsideOfRanks);
  std::optional<SampleGenerator::Use> use(std::in_place, alone);
  const auto expected = draw();
  torch::manual_seed(5);
  EXPECT_FALSE(torch::equal(torch::rand({4}), expected));  // it is followed here
  use.reset();
  LocalRanks ranks(cpus(2), patient());
  ranks.run([&](ProcessGroup& group, torch::Device) {
    SampleGenerator generator(Seeds::FollowedOutsideOfRanks);
    std::optional<SampleGenerator::Use> own;
    // Rank 1 begins a batch while rank 0 builds one, and goes on when that one is done.
    if (group.rank() == 0) own.emplace(generator);
    group.barrier();
    if (group.rank() == 1) own.emplace(generator);
    group.barrier();
    if (group.rank() == 0) {
      EXPECT_TRUE(torch::equal(draw(), expected));
      own.reset();
    }
    group.barrier();
    if (group.rank() == 1) {
      EXPECT_TRUE(torch::equal(draw(), expected));
      torch::manual_seed(6);
      EXPECT_TRUE(torch::equal(draw(), expected));
    }
  });
}

TEST(LocalRanks, RecomputedActivationsHaveTheRanksOwnDropout) {
  LocalRanks ranks(cpus(3), patient());
  ranks.run([&](ProcessGroup&, torch::Device) {
    for (int step = 0; step < 20; ++step) {
      const auto x = torch::ones({64}).requires_grad_();
      const auto y =
          checkpoint([](const torch::Tensor& in) { return torch::dropout(in, 0.5, true); }, x);
      y.sum().backward();
      EXPECT_TRUE(torch::equal(x.grad(), y.detach()));  // both are the mask
    }
  });
}

TEST(LocalRanks, ThreadsOfOperatorsAreThoseOfEachRankAlone) {
  const int before = torch::get_num_threads();
  torch::set_num_threads(5);
  {
    LocalRanks ranks(cpus(2), patient().threads(3));
    ranks.run([](ProcessGroup&, torch::Device) { EXPECT_EQ(torch::get_num_threads(), 3); });
    EXPECT_EQ(torch::get_num_threads(), 5);
    std::jthread([] { EXPECT_EQ(torch::get_num_threads(), 5) << "in a later thread"; });
    LocalRanks by_default(cpus(2), patient());
    cpu_set_t allowed;
    ASSERT_EQ(::sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    by_default.run([&](ProcessGroup&, torch::Device) {
      EXPECT_EQ(torch::get_num_threads(), std::max(1, CPU_COUNT(&allowed) / 2));
    });
    cpu_set_t one;
    CPU_ZERO(&one);
    for (std::size_t core = 0; CPU_COUNT(&one) == 0; ++core) {
      if (CPU_ISSET(core, &allowed)) CPU_SET(core, &one);
    }
    ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
    LocalRanks on_one_core(cpus(1), patient());
    ASSERT_EQ(::sched_setaffinity(0, sizeof(allowed), &allowed), 0);
    on_one_core.run([](ProcessGroup&, torch::Device) { EXPECT_EQ(torch::get_num_threads(), 1); });
    ranks.run([](ProcessGroup&, torch::Device) { EXPECT_EQ(torch::get_num_threads(), 3); });
  }
  torch::set_num_threads(before);
}

// --- errors ---

/// An error of a program's own.
struct OwnError : std::runtime_error {
  explicit OwnError(int value) : std::runtime_error("own"), number(value) {}
  int number;
};

TEST_P(LocalRanksOf, TheFirstErrorStopsTheOthersAndTheNextRunWorks) {
  const int size = GetParam();
  LocalRanks ranks(cpus(size), patient());
  for (int failing = 0; failing < size; ++failing) {
    std::atomic<int> lost{0};
    const auto error = error_of_run(ranks, [&](ProcessGroup& group, torch::Device) {
      group.barrier();
      TORCH_CHECK(group.rank() != failing, "a wrong shape");
      try {
        group.barrier();
      } catch (const PeerLostError& caught) {
        const std::string text = caught.what();
        EXPECT_NE(text.find("it left LocalRanks::run with an error: a wrong shape"),
                  std::string::npos)
            << text;
        ++lost;
        throw;
      }
    });
    const std::string place = "in rank " + std::to_string(failing) + " of " + std::to_string(size);
    expect_error<c10::Error>(error, "a wrong shape");
    expect_error<c10::Error>(error, place);
    EXPECT_EQ(lost, size - 1);
    EXPECT_EQ(ranks.failed_rank(), failing);
    ranks.run([&](ProcessGroup& group, torch::Device) { group.barrier(); });
    EXPECT_FALSE(ranks.failed_rank());
  }
}

TEST_P(LocalRanksOf, ErrorsKeepTheirTypeAndGetTheRanksNumberWhereTheTypeAllows) {
  const int size = GetParam();
  const int last = size - 1;
  LocalRanks ranks(cpus(size), patient());
  const auto error_of = [&](const std::function<void()>& fail) {
    return error_of_run(ranks, [&](ProcessGroup& group, torch::Device) {
      if (group.rank() == last) fail();
      group.barrier();
    });
  };
  const std::string place = "rank " + std::to_string(last) + " of " + std::to_string(size) + ": ";
  expect_error<std::invalid_argument>(error_of([] { throw std::invalid_argument("bad"); }),
                                      place + "bad");
  expect_error<std::runtime_error>(error_of([] { throw std::runtime_error("bad"); }),
                                   place + "bad");
  expect_error<c10::IndexError>(error_of([] { TORCH_CHECK_INDEX(false, "bad index"); }),
                                "bad index");
  try {
    std::rethrow_exception(error_of([] { throw OwnError(42); }));
  } catch (const OwnError& error) {
    EXPECT_EQ(error.number, 42);
  }
  EXPECT_EQ(ranks.failed_rank(), last);
  EXPECT_THROW(std::rethrow_exception(error_of([] { throw 42; })), int);
}

TEST(LocalRanks, TheCauseIsToldThoughOthersLoseTheRankBeforeItsErrorIsKnown) {
  LocalRanks ranks(cpus(3), patient());
  std::atomic<int> lost{0};
  const auto error = error_of_run(ranks, [&](ProcessGroup& group, torch::Device) {
    Mesh mesh(group, {{"data", 3}});
    // Lives on when the mesh's groups are gone, until another rank has failed for that and has
    // given up its group.
    const auto wait = [&](void*) {
      if (group.rank() != 1) return;
      EXPECT_THROW(group.barrier(), PeerLostError);
    };
    const std::unique_ptr<void, decltype(wait)> last_to_go(&mesh, wait);
    Mesh own(std::move(mesh));
    if (group.rank() == 1) throw std::out_of_range("the cause");
    try {
      own.group("data")->barrier();
    } catch (const PeerLostError&) {
      ++lost;
      throw;
    }
  });
  EXPECT_GT(lost, 0);
  expect_error<std::out_of_range>(error, "rank 1 of 3: the cause");
}

TEST(LocalRanks, AfterAFailedRunThereIsNothingToClose) {
  LocalRanks ranks(cpus(2), patient());
  const auto error = error_of_run(ranks, [](ProcessGroup& group, torch::Device) {
    if (group.rank() == 1) throw std::out_of_range("the cause");
    group.barrier();
  });
  expect_error<std::out_of_range>(error, "rank 1 of 2: the cause");
  ranks.close();
  EXPECT_EQ(ranks.failed_rank(), 1);
  ranks.run([](ProcessGroup& group, torch::Device) { group.barrier(); });
  ranks.close();
}

TEST(LocalRanks, ACpuWithAnIndexIsTheCpu) {
  LocalRanks ranks({torch::Device("cpu:0"), torch::Device(torch::kCPU)}, patient());
  EXPECT_EQ(ranks.devices(), cpus(2));
  ranks.run([](ProcessGroup&, torch::Device device) {
    EXPECT_EQ(device, torch::zeros({1}, device).device());
  });
}

TEST(LocalRanks, ARunInsideOfARunIsRefused) {
  LocalRanks ranks(cpus(2), patient());
  ranks.run([&](ProcessGroup&, torch::Device) {
    expect_refusal([&] { ranks.run([](ProcessGroup&, torch::Device) {}); },
                   "while a run of the same object is under way");
  });
}

TEST(LocalRanks, WrongArgumentsAreRefused) {
  const auto refuse = [](const std::vector<torch::Device>& devices,
                         const LocalRanksOptions& options, const std::string& part) {
    expect_refusal([&] { LocalRanks ranks(devices, options); }, part);
  };
  refuse({}, {}, "there are no devices");
  refuse({torch::Device(torch::kCUDA, 99)}, {}, "device cuda:99 is not there; LibTorch sees");
  refuse({torch::kCUDA}, {}, "has no index");
  refuse(cpus(2), LocalRanksOptions().threads(-1), "-1 threads a rank");
  refuse(cpus(2), LocalRanksOptions().timeout(std::chrono::milliseconds(0)), "the timeout is 0 ms");
}

TEST(LocalRanks, AForkHasNoRanksAndCanMakeItsOwn) {
  auto ranks = std::make_unique<LocalRanks>(cpus(2), patient());
  ranks->run([](ProcessGroup& group, torch::Device) { group.barrier(); });
  run_in_fork([&] {
    bool is_refused = false;
    try {
      ranks->run([](ProcessGroup&, torch::Device) {});
    } catch (const c10::Error& error) {
      is_refused = std::string(error.what()).find("is a fork") != std::string::npos;
    }
    if (!is_refused) throw std::runtime_error("the run was not refused");
    ranks.reset();
    LocalRanks own(cpus(2), patient());
    own.run([](ProcessGroup& group, torch::Device) { group.barrier(); });
  });
  ranks->run([](ProcessGroup& group, torch::Device) { group.barrier(); });
}

TEST(RankThreads, EachThreadRunsEachTaskOnce) {
  std::vector<int> counts(3, 0);
  {
    RankThreads threads(3);
    for (int round = 1; round <= 2000; ++round) {
      threads.run([&](int number) { ++counts[static_cast<std::size_t>(number)]; });
      ASSERT_EQ(counts, std::vector<int>(3, round));
    }
  }
  EXPECT_EQ(counts, std::vector<int>(3, 2000));
}

}  // namespace
}  // namespace lockstep::testing
