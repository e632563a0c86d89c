// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/backend_selection.h"

#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/bootstrap/between_hosts.h"
#include "comm/bootstrap/link_choice.h"

namespace lockstep {
namespace {

LaunchEnvironment launched(Launcher launcher, int world_size, int local_size) {
  LaunchEnvironment environment;
  environment.launcher = launcher;
  environment.world_size = world_size;
  environment.local_size = local_size;
  return environment;
}

const Capabilities kAll{
    .has_mpi = true, .has_gloo = true, .has_nccl = true, .has_rendezvous = true, .gpus = 0};

Capabilities without(bool Capabilities::*what) {
  Capabilities result = kAll;
  result.*what = false;
  return result;
}

std::string refusal(Backend wanted, const LaunchEnvironment& environment,
                    const Capabilities& capabilities) {
  try {
    return "took " +
           std::string(to_string(select_backend(wanted, environment, capabilities).backend()));
  } catch (const LaunchError& error) {
    return error.what();
  }
}

TEST(BackendSelection, FollowsTheLaunch) {
  const auto choose = [](const LaunchEnvironment& environment, const Capabilities& around) {
    return select_backend(Backend::Auto, environment, around).backend();
  };
  EXPECT_EQ(choose(launched(Launcher::Standalone, 1, 1), kAll), Backend::Single);
  EXPECT_EQ(choose(launched(Launcher::OpenMpi, 4, 4), kAll), Backend::SharedMemory);
  EXPECT_EQ(choose(launched(Launcher::OpenMpi, 4, 2), kAll), Backend::Hierarchical);
  EXPECT_EQ(choose(launched(Launcher::Slurm, 4, 1), kAll), Backend::Hierarchical);
  EXPECT_EQ(choose(launched(Launcher::Torchrun, 4, 4), kAll), Backend::SharedMemory);
  EXPECT_EQ(choose(launched(Launcher::Torchrun, 4, 2), kAll), Backend::Hierarchical);
  EXPECT_EQ(choose(launched(Launcher::Slurm, 4, 2), without(&Capabilities::has_mpi)),
            Backend::Hierarchical);
  EXPECT_EQ(select_backend(Backend::Gloo, launched(Launcher::Torchrun, 4, 2), kAll).backend(),
            Backend::Gloo)
      << "what is asked for has no other backend inside";
}

TEST(BackendSelection, ConnectsHostsByWhatTheLauncherStarts) {
  const auto choose = [](Launcher launcher, const Capabilities& around) {
    return select_between_hosts(launched(launcher, 4, 2), around).backend;
  };
  EXPECT_EQ(choose(Launcher::OpenMpi, kAll), Backend::Mpi);
  EXPECT_EQ(choose(Launcher::Slurm, kAll), Backend::Mpi);
  EXPECT_EQ(choose(Launcher::Torchrun, kAll), Backend::Gloo) << "torchrun starts no MPI";
  EXPECT_EQ(choose(Launcher::Slurm, without(&Capabilities::has_mpi)), Backend::Gloo);
}

TEST(BackendSelection, ConnectsHostsByTcpUnlessAskedOtherwise) {
  const auto choose = [](Launcher launcher, const std::string& wanted) {
    return select_between_hosts(launched(launcher, 4, 2), kAll, wanted);
  };
  EXPECT_TRUE(choose(Launcher::OpenMpi, "").is_over_tcp);
  EXPECT_TRUE(choose(Launcher::Torchrun, "tcp").is_over_tcp);
  EXPECT_FALSE(choose(Launcher::OpenMpi, "mpi").is_over_tcp);
  EXPECT_EQ(choose(Launcher::OpenMpi, "mpi").backend, Backend::Mpi);
  EXPECT_EQ(choose(Launcher::OpenMpi, "gloo").backend, Backend::Gloo);
  EXPECT_FALSE(choose(Launcher::Torchrun, "gloo").is_over_tcp);
  EXPECT_THROW(choose(Launcher::Torchrun, "mpi"), LaunchError) << "torchrun starts no MPI";
  EXPECT_THROW(choose(Launcher::OpenMpi, "ib"), LaunchError) << "no such word";
}

TEST(BackendSelection, ComparesTcpWithMpiUnlessOneIsAskedFor) {
  const auto may_be_mpi = [](Launcher launcher, const std::string& wanted) {
    return select_between_hosts(launched(launcher, 4, 2), kAll, wanted).may_be_mpi;
  };
  EXPECT_TRUE(may_be_mpi(Launcher::OpenMpi, ""));
  EXPECT_FALSE(may_be_mpi(Launcher::OpenMpi, "tcp"));
  EXPECT_FALSE(may_be_mpi(Launcher::Torchrun, "")) << "torchrun starts no MPI";
  auto pretended = launched(Launcher::OpenMpi, 4, 2);
  pretended.host = "a";
  EXPECT_FALSE(select_between_hosts(pretended, kAll, "").may_be_mpi);
  const auto at_rate = [](double bytes_per_second) {
    return LinkSpeed{.latency = 1e-5, .bytes_per_second = bytes_per_second};
  };
  EXPECT_TRUE(is_mpi_faster(at_rate(10e9), at_rate(2e9)));
  EXPECT_FALSE(is_mpi_faster(at_rate(1.2e9), at_rate(1.1e9))) << "TCP moves beside backward";
  EXPECT_FALSE(is_mpi_faster(at_rate(1.2e9), at_rate(0.2e9))) << "a busy moment of the machine";
}

TEST(BackendSelection, SaysWhy) {
  EXPECT_EQ(
      select_backend(Backend::Auto, launched(Launcher::Torchrun, 4, 2), kAll).reason,
      "the ranks are on several hosts, over TCP; they meet over Gloo, because torchrun starts no "
      "MPI");
  EXPECT_EQ(select_backend(Backend::Mpi, launched(Launcher::OpenMpi, 2, 2), kAll).reason,
            "as asked");
}

BackendSelection decided(const LaunchEnvironment& environment, const Capabilities& capabilities,
                         const std::vector<std::int64_t>& gpus) {
  BackendSelection selection = select_backend(Backend::Auto, environment, capabilities);
  decide_on_nccl(selection, gpus);
  return selection;
}

TEST(BackendSelection, TakesNcclWhereEachRankHasAGpu) {
  // How many a rank sees does not matter: launchers may show each rank its own alone.
  Capabilities around = kAll;
  around.gpus = 1;
  const auto four = decided(launched(Launcher::OpenMpi, 4, 2), around, {11, 12, 13, 14});
  EXPECT_EQ(four.backend(), Backend::Nccl);
  EXPECT_EQ(four.transport, Backend::Hierarchical);
  EXPECT_NE(four.reason.find("each rank has a GPU of its own"), std::string::npos) << four.reason;
}

TEST(BackendSelection, SaysWhyItDoesNotTakeNccl) {
  const auto launch = launched(Launcher::OpenMpi, 3, 3);
  const auto crowded = decided(launch, kAll, {11, 12, 11});
  EXPECT_EQ(crowded.backend(), Backend::SharedMemory);
  EXPECT_EQ(crowded.reason,
            "all ranks are on one host; no NCCL, because ranks 0 and 2 use one GPU");
  EXPECT_EQ(decided(launch, kAll, {11, 0, 12}).reason,
            "all ranks are on one host; no NCCL, because rank 1 sees no GPU");
  EXPECT_EQ(decided(launch, kAll, {0, 0, 0}).reason, "all ranks are on one host")
      << "where nobody has one, nobody asks";
}

TEST(BackendSelection, TakesNcclForNobodyWhoCannotHaveIt) {
  EXPECT_EQ(decided(launched(Launcher::Standalone, 1, 1), kAll, {11}).backend(), Backend::Single);
  EXPECT_EQ(decided(launched(Launcher::OpenMpi, 2, 2), without(&Capabilities::has_nccl), {11, 12})
                .backend(),
            Backend::SharedMemory);
  BackendSelection asked = select_backend(Backend::Mpi, launched(Launcher::OpenMpi, 2, 2), kAll);
  decide_on_nccl(asked, {11, 12});
  EXPECT_EQ(asked.backend(), Backend::Mpi);
}

TEST(BackendSelection, RefusesWhatTheLaunchOrTheBuildCannotHave) {
  const auto expect_part = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  expect_part(refusal(Backend::Single, launched(Launcher::OpenMpi, 2, 2), kAll), "started 2 ranks");
  expect_part(refusal(Backend::SharedMemory, launched(Launcher::OpenMpi, 4, 2), kAll),
              "Open MPI says that 2 of 4 ranks are on this host");
  expect_part(
      refusal(Backend::Mpi, launched(Launcher::OpenMpi, 4, 2), without(&Capabilities::has_mpi)),
      "no MPI");
  Capabilities alone = without(&Capabilities::has_mpi);
  alone.has_gloo = false;
  expect_part(refusal(Backend::Hierarchical, launched(Launcher::OpenMpi, 4, 2), alone),
              "this build has no MPI, and this build has no gloo");
  expect_part(refusal(Backend::Hierarchical, launched(Launcher::Torchrun, 4, 2),
                      without(&Capabilities::has_rendezvous)),
              "MASTER_ADDR and MASTER_PORT, which Gloo needs, are not set");
  expect_part(
      refusal(Backend::Gloo, launched(Launcher::Torchrun, 4, 2), without(&Capabilities::has_gloo)),
      "libgloo-dev");
  expect_part(refusal(Backend::Gloo, launched(Launcher::Torchrun, 4, 2),
                      without(&Capabilities::has_rendezvous)),
              "MASTER_ADDR");
  expect_part(
      refusal(Backend::Auto, launched(Launcher::Torchrun, 4, 2), without(&Capabilities::has_gloo)),
      "no gloo");
  expect_part(refusal(Backend::Nccl, launched(Launcher::OpenMpi, 2, 2), kAll), "sees none");
  expect_part(
      refusal(Backend::Nccl, launched(Launcher::OpenMpi, 2, 2), without(&Capabilities::has_nccl)),
      "no NCCL");
  expect_part(refusal(static_cast<Backend>(99), launched(Launcher::Standalone, 1, 1), kAll), "99");
}

}  // namespace
}  // namespace lockstep
