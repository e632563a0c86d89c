// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/bucket_assignments.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using NeededSet = std::vector<bool>;

BucketAssignments assignments_of(std::size_t parameters, const NeededSet& needed,
                                 const DistributedDataParallelOptions& options = {},
                                 bool is_in_place = false) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < parameters; ++i) names.push_back(std::string("p") + char('0' + i));
  return {names, std::vector<GradientShape>(parameters, {.elements = 16}), options, needed,
          is_in_place};
}

/// An iteration begins. Returns whether buckets were rebuilt, which is done if it has to be.
bool follow(BucketAssignments& assignments, std::uint64_t& plans) {
  if (!assignments.follow(/*is_in_place=*/false)) return false;
  if (assignments.current().number() == 0) assignments.current().set_number(++plans);
  assignments.note_built();
  return true;
}

TEST(BucketAssignments, ASetThatComesBackKeepsItsAssignment) {
  std::uint64_t plans = 0;
  auto assignments = assignments_of(2, {true, true});
  EXPECT_TRUE(follow(assignments, plans));
  EXPECT_FALSE(follow(assignments, plans));
  assignments.set_needed({true, false});
  EXPECT_TRUE(follow(assignments, plans));
  EXPECT_EQ(assignments.current().members(), (NeededSet{true, false}));
  assignments.set_needed({true, true});
  EXPECT_TRUE(follow(assignments, plans));
  EXPECT_EQ(assignments.current().number(), 1U);
  EXPECT_EQ(plans, 2U);
}

TEST(BucketAssignments, TheSetThatWasNotUsedForTheLongestTimeIsForgotten) {
  std::uint64_t plans = 0;
  auto assignments = assignments_of(18, NeededSet(18, true));
  const auto use_without = [&](std::size_t frozen) {
    NeededSet needed(18, true);
    needed[frozen] = false;
    assignments.set_needed(needed);
    static_cast<void>(follow(assignments, plans));
    return assignments.current().number();
  };
  static_cast<void>(follow(assignments, plans));
  for (std::size_t i = 0; i < 15; ++i) EXPECT_EQ(use_without(i), i + 2);
  EXPECT_EQ(use_without(0), 2U) << "16 sets are kept";
  EXPECT_EQ(use_without(15), 17U) << "in place of that of all parameters";
  EXPECT_EQ(use_without(0), 2U);
  EXPECT_EQ(use_without(2), 4U);
  assignments.set_needed(NeededSet(18, true));
  EXPECT_TRUE(follow(assignments, plans));
  EXPECT_EQ(assignments.current().number(), 18U);
}

TEST(BucketAssignments, BucketsThatCouldNotBeBuiltAreBuiltInTheNextIteration) {
  std::uint64_t plans = 0;
  auto assignments = assignments_of(2, {true, true});
  EXPECT_TRUE(follow(assignments, plans));
  for (const bool is_new : {true, false}) {
    assignments.set_needed({true, false});
    EXPECT_TRUE(assignments.follow(false)) << is_new;
    EXPECT_TRUE(assignments.follow(false)) << "they are not there yet";
    EXPECT_TRUE(follow(assignments, plans));
    EXPECT_FALSE(follow(assignments, plans));
    assignments.set_needed({true, true});
    EXPECT_TRUE(follow(assignments, plans));
  }
}

TEST(BucketAssignments, ASetIsAnotherOneUntilAnIterationWithItIsCompleted) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    auto assignments = assignments_of(2, {true, true});
    const auto complete = [&] {
      assignments.current().begin_iteration();
      assignments.end_iteration(*group, 0);
    };
    EXPECT_TRUE(assignments.is_other_set());
    complete();
    EXPECT_FALSE(assignments.is_other_set());
    assignments.set_needed({true, false});
    EXPECT_FALSE(assignments.is_other_set()) << "from the next iteration on";
    for (int attempt = 0; attempt < 2; ++attempt) {
      static_cast<void>(assignments.follow(false));
      EXPECT_TRUE(assignments.is_other_set()) << attempt;
    }
    assignments.set_needed({true, true});
    static_cast<void>(assignments.follow(false));
    EXPECT_FALSE(assignments.is_other_set()) << "no iteration came between";
    assignments.set_needed({true, false});
    static_cast<void>(assignments.follow(false));
    complete();
    EXPECT_FALSE(assignments.is_other_set());
    group->close();
  });
}

TEST(BucketAssignments, GoOnWithWhatWasSaved) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    std::uint64_t plans = 0;
    const auto complete = [&](BucketAssignments& assignments) {
      static_cast<void>(follow(assignments, plans));
      assignments.current().begin_iteration();
      for (const std::size_t i : {0U, 2U, 1U}) {
        if (assignments.current().members()[i]) assignments.current().note_ready(i);
      }
      assignments.end_iteration(*group, 0);
    };
    auto first = assignments_of(3, {true, true, true}, {}, /*is_in_place=*/true);
    complete(first);
    complete(first);
    first.set_needed({true, false, true});
    complete(first);
    const auto saved = first.saved(plans);
    ASSERT_EQ(saved.sets.size(), 2U);
    EXPECT_EQ(saved.plan, 3U);
    EXPECT_EQ(problem_of(saved, 3), "");
    const auto& all = saved.sets[1];
    EXPECT_EQ(all.current.buckets, (std::vector<std::vector<std::size_t>>{{0, 2, 1}}));
    EXPECT_EQ(all.current.reason, "order of the first backward's gradients");
    EXPECT_EQ(all.number, 2U);
    EXPECT_EQ(all.iterations, 2U);
    EXPECT_FALSE(all.proposal);
    const auto& latest = saved.sets[0];
    EXPECT_EQ(latest.current.buckets, (std::vector<std::vector<std::size_t>>{{2, 0}}));
    ASSERT_TRUE(latest.proposal);
    EXPECT_EQ(latest.proposal->buckets, (std::vector<std::vector<std::size_t>>{{0, 2}}));
    EXPECT_EQ(latest.order, (std::vector<std::size_t>{0, 2}));
    EXPECT_EQ(all.caps, (std::vector<std::size_t>{1 << 20, 8 << 20}));
    EXPECT_EQ(latest.caps, (std::vector<std::size_t>{1 << 20, 25 << 20}));

    auto second = assignments_of(3, {true, true, true}, {}, /*is_in_place=*/false);
    second.restore(saved, /*is_in_place=*/false);
    const auto again = second.saved(plans);
    ASSERT_EQ(again.sets.size(), 2U);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(again.sets[i].current.buckets, saved.sets[i].current.buckets);
      EXPECT_EQ(again.sets[i].caps, saved.sets[i].caps) << "those of buckets in place";
      EXPECT_EQ(again.sets[i].order, saved.sets[i].order);
    }
    EXPECT_TRUE(follow(second, plans)) << "they are not built yet";
    EXPECT_EQ(second.current().number(), 2U);
    EXPECT_EQ(plans, 3U);
    second.set_needed({true, false, true});
    EXPECT_TRUE(follow(second, plans));
    EXPECT_EQ(second.current().number(), 4U) << "that of the proposal";
    group->close();
  });
}

TEST(BucketAssignments, WhatIsWrongWithSavedOnesIsSaid) {
  const SavedAssignment right{{{{0, 2}, {1}}, "reason"}, {}, 1, {64}, 3, {0, 2, 1}};
  const auto problem = [&](const std::function<void(SavedAssignments&)>& change) {
    SavedAssignments saved{1, {right}};
    change(saved);
    return problem_of(saved, 3);
  };
  EXPECT_EQ(problem([](auto&) {}), "");
  EXPECT_EQ(problem([](auto& saved) { saved.sets[0].current.buckets = {}; }),
            "a bucket has no parameters");
  EXPECT_EQ(problem([](auto& saved) { saved.sets[0].current.buckets[1] = {}; }),
            "a bucket has no parameters");
  EXPECT_EQ(problem([](auto& saved) { saved.sets[0].current.buckets[1] = {3}; }),
            "a bucket has a parameter that there is not");
  EXPECT_EQ(problem([](auto& saved) {
              saved.sets[0].current.buckets[1] = {1, 2};
            }),
            "a parameter is in two buckets");
  EXPECT_EQ(problem([](auto& saved) {
              saved.sets[0].order = {0, 2};
            }),
            "the order of gradients is not that of the parameters in buckets");
  EXPECT_EQ(problem([](auto& saved) {
              saved.sets[0].proposal = {{{0}, {1}}, ""};
            }),
            "the next buckets have other parameters");
  EXPECT_EQ(problem([](auto& saved) {
              saved.sets[0].proposal = {{{0, 1, 2}, {}}, ""};
            }),
            "the next buckets have other parameters");
  EXPECT_EQ(problem([](auto& saved) { saved.sets[0].caps = {}; }), "a cap of buckets is missing");
  EXPECT_EQ(problem([](auto& saved) {
              saved.sets[0].caps = {64, 0};
            }),
            "a cap of buckets is missing");
  EXPECT_EQ(problem([](auto& saved) { saved.sets[0].number = 2; }),
            "a set has a number that was not given yet");
  EXPECT_EQ(problem([](auto& saved) { saved.sets[0].number = 0; }),
            "a set has a number that was not given yet");
  EXPECT_EQ(problem([&](auto& saved) { saved.sets.push_back(right); }),
            "a set of parameters is there twice");
  const SavedAssignment second{{{{1}}, "reason"}, {}, 1, {64}, 3, {1}};
  EXPECT_EQ(problem([&](auto& saved) { saved.sets.push_back(second); }),
            "two sets have the same number");
}

TEST(BucketAssignments, WhatBelongsToRemovedParametersIsLeftOut) {
  const SavedAssignment all{{{{0, 2}, {1}}, "a"}, {{{{1}, {2, 0}}, "b"}}, 1, {64}, 3, {0, 2, 1}};
  const SavedAssignment some{{{{0, 2}}, "c"}, {}, 2, {64}, 3, {0, 2}};
  const SavedAssignment one{{{{1}}, "d"}, {}, 3, {64}, 3, {1}};
  const auto saved = renumbered({3, {all, some, one}}, {1, kGone, 0});
  ASSERT_EQ(saved.sets.size(), 1U) << "the second is equal to the first, the third is empty";
  EXPECT_EQ(saved.plan, 3U);
  EXPECT_EQ(saved.sets[0].current.buckets, (std::vector<std::vector<std::size_t>>{{1, 0}}));
  EXPECT_EQ(saved.sets[0].proposal->buckets, (std::vector<std::vector<std::size_t>>{{0, 1}}));
  EXPECT_EQ(saved.sets[0].order, (std::vector<std::size_t>{1, 0}));
  EXPECT_EQ(problem_of(saved, 2), "");
}

TEST(BucketAssignments, OnesThatWereNeverBuiltAreNotSaved) {
  std::uint64_t plans = 0;
  auto assignments = assignments_of(2, {true, true});
  EXPECT_TRUE(assignments.saved(plans).sets.empty());
  static_cast<void>(follow(assignments, plans));
  assignments.set_needed({true, false});
  static_cast<void>(assignments.follow(/*is_in_place=*/false));
  EXPECT_EQ(assignments.saved(plans).sets.size(), 1U);
}

TEST(BucketAssignments, NamesOfCallsTellSetsApart) {
  const auto options = DistributedDataParallelOptions().name("net");
  auto assignments = assignments_of(3, NeededSet(3, true), options);
  EXPECT_EQ(assignments.call_name("x"), "net: x");
  EXPECT_EQ(assignments.bucket_names(), (std::vector<std::string>{"net: bucket 1 of 1"}));
  std::vector<std::string> names;
  for (const NeededSet& needed :
       {NeededSet{true, true, false}, {true, false, true}, {false, true, true}}) {
    names.push_back(assignments_of(3, needed, options).call_name("x"));
    EXPECT_EQ(names.back().find("net, 1 frozen: x of set "), 0U) << names.back();
    EXPECT_EQ(assignments_of(3, needed, options).call_name("x"), names.back());
  }
  EXPECT_NE(names[0], names[1]);
  EXPECT_NE(names[0], names[2]);
  EXPECT_NE(names[1], names[2]);
}

TEST(BucketAssignments, ErrorsNameThreeFrozenParametersAtMost) {
  const auto text_of_frozen = [](const NeededSet& needed) {
    MismatchError error(CommContext(), "what", "hint");
    assignments_of(needed.size(), needed).explain(error);
    return error.context().empty() ? std::string() : error.context()[0];
  };
  EXPECT_EQ(text_of_frozen({true, true, true}), "");
  EXPECT_NE(text_of_frozen({false, true, true}).find("has frozen 'p0';"), std::string::npos);
  EXPECT_NE(text_of_frozen({false, true, false, false}).find("has frozen 'p0', 'p2', 'p3';"),
            std::string::npos);
  EXPECT_NE(text_of_frozen({true, false, false, false, false}).find("'p1', 'p2', 'p3', ...;"),
            std::string::npos);
}

TEST(BucketAssignments, ErrorsSayItOnce) {
  MismatchError error(CommContext(), "what", "hint");
  const auto assignments = assignments_of(2, {true, false});
  assignments.explain(error);
  assignments.explain(error);
  EXPECT_EQ(error.context().size(), 1U);
}

TEST(BucketAssignments, CapsAreThoseOfTheOptionsAndSmallerInPlace) {
  // 64 bytes a parameter.
  const auto buckets = [](const DistributedDataParallelOptions& options, bool is_in_place = false) {
    return assignments_of(4, NeededSet(4, true), options, is_in_place).current().buckets().size();
  };
  using Options = DistributedDataParallelOptions;
  EXPECT_EQ(buckets(Options()), 1U);
  EXPECT_EQ(buckets(Options().bucket_cap_bytes(64)), 4U) << "the first cap is not larger";
  EXPECT_EQ(buckets(Options().bucket_cap_bytes(192).first_bucket_cap_bytes(64)), 2U);
  EXPECT_EQ(buckets(Options().bucket_cap_bytes(64).bucket_caps_bytes({128})), 2U);
}

TEST(BucketAssignments, BucketsThatAreReducedInPlaceHaveEightMebibytes) {
  const auto buckets = [](bool is_in_place, const DistributedDataParallelOptions& options) {
    const std::vector<GradientShape> shapes(8, {.elements = std::size_t{1} << 19});  // 2 MiB
    return BucketAssignments(std::vector<std::string>(8, "p"), shapes, options, NeededSet(8, true),
                             is_in_place)
        .current()
        .buckets()
        .size();
  };
  const auto options = DistributedDataParallelOptions()
                           .bucket_cap_bytes(std::size_t{16} << 20)
                           .first_bucket_cap_bytes(std::size_t{16} << 20);
  EXPECT_EQ(buckets(false, options), 1U);
  EXPECT_EQ(buckets(true, options), 2U);
  EXPECT_EQ(buckets(true, DistributedDataParallelOptions(options).bucket_cap_bytes(4 << 20)), 4U);
}

}  // namespace
}  // namespace lockstep::testing
