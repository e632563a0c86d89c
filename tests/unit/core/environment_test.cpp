// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/environment.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>

#include <cstdlib>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/launcher_choice.h"

namespace lockstep {
namespace {

using Variables = std::map<std::string, std::string>;

LaunchEnvironment detect(const Variables& variables) {
  return LaunchEnvironment::detect([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "3"},
                         {"OMPI_COMM_WORLD_SIZE", "4"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                         {"PMIX_NAMESPACE", "77"}};
const Variables kSlurm{{"SLURM_PROCID", "5"},  {"SLURM_NTASKS", "16"},
                       {"SLURM_LOCALID", "1"}, {"SLURM_STEP_NUM_TASKS", "11"},
                       {"SLURM_NODEID", "1"},  {"SLURM_STEP_TASKS_PER_NODE", "4(x2),3"},
                       {"SLURM_JOB_ID", "12"}, {"SLURM_STEP_ID", "0"}};

void expect(const LaunchEnvironment& environment, Launcher launcher, int rank, int size,
            int local_rank, int local_size) {
  EXPECT_EQ(environment.launcher, launcher);
  EXPECT_EQ(environment.rank, rank);
  EXPECT_EQ(environment.world_size, size);
  EXPECT_EQ(environment.local_rank, local_rank);
  EXPECT_EQ(environment.local_size, local_size);
}

TEST(LaunchEnvironment, SaysThatAllRanksWereTakenToBeOnOneHost) {
  const auto bare = detect({{"RANK", "1"}, {"WORLD_SIZE", "2"}});
  EXPECT_EQ(bare.local_size, 2);
  EXPECT_NE(bare.assumption.find("LOCAL_WORLD_SIZE is not set, so that all 2 ranks"),
            std::string::npos)
      << bare.assumption;
  EXPECT_NE(bare.assumption.find("LOCAL_RANK"), std::string::npos) << bare.assumption;
  EXPECT_EQ(detect({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).assumption, "");
  EXPECT_EQ(detect({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_WORLD_SIZE", "2"}}).assumption, "");
  EXPECT_EQ(detect({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCKSTEP_FAKE_HOSTS", "a,b"}}).assumption,
            "");
  EXPECT_NE(detect({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}).assumption.find("MPI_LOCALNRANKS"),
            std::string::npos);
  EXPECT_EQ(detect(kOpenMpi).assumption, "");
  EXPECT_EQ(detect(kSlurm).assumption, "");
}

TEST(LaunchEnvironment, ReadsEveryLauncher) {
  expect(detect({}), Launcher::Standalone, 0, 1, 0, 1);
  expect(detect(kOpenMpi), Launcher::OpenMpi, 3, 4, 1, 2);
  expect(detect({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}), Launcher::Mpich, 1, 2, 1, 2);
  expect(detect({{"PMI_RANK", "3"},
                 {"PMI_SIZE", "4"},
                 {"MPI_LOCALRANKID", "1"},
                 {"MPI_LOCALNRANKS", "2"}}),
         Launcher::Mpich, 3, 4, 1, 2);
  expect(
      detect({{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "2"}}),
      Launcher::Torchrun, 2, 4, 0, 2);
  expect(detect(kSlurm), Launcher::Slurm, 5, 11, 1, 4);
  expect(detect({{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}}), Launcher::Slurm, 1, 2, 1, 2);
}

TEST(LaunchEnvironment, MpirunInsideASlurmAllocationIsMpirun) {
  Variables both = kSlurm;
  both.insert(kOpenMpi.begin(), kOpenMpi.end());
  EXPECT_EQ(detect(both).launcher, Launcher::OpenMpi);
}

TEST(LaunchEnvironment, JobsHaveIdsOfTheirOwn) {
  EXPECT_EQ(detect(kOpenMpi).job_id, "openmpi 77 ");
  EXPECT_EQ(detect(kSlurm).job_id, "slurm 12.0");
  Variables torchrun{
      {"RANK", "0"}, {"WORLD_SIZE", "1"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}};
  const auto first = detect(torchrun).job_id;
  torchrun["MASTER_PORT"] = "2";
  EXPECT_NE(detect(torchrun).job_id, first);
  torchrun["LOCKSTEP_JOB_ID"] = "mine";
  EXPECT_EQ(detect(torchrun).job_id, "user mine");
}

void expect_error(const Variables& base, const std::string& name,
                  const std::optional<std::string>& value) {
  Variables variables = base;
  variables.erase(name);
  if (value) variables[name] = *value;
  try {
    static_cast<void>(detect(variables));
    ADD_FAILURE() << name << "=" << value.value_or("(not set)") << " was taken";
  } catch (const LaunchError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(name), std::string::npos) << text;
    EXPECT_NE(text.find(value ? "is '" : "is not set"), std::string::npos) << text;
  }
}

TEST(LaunchEnvironment, NamesTheVariableThatIsWrong) {
  for (const std::string garbage :
       {"", "x", "-1", "1.5", "4", " 1", "1 ", "99999999999999999999", "0x1"}) {
    expect_error(kOpenMpi, "OMPI_COMM_WORLD_RANK", garbage);
  }
  for (const char* garbage : {"", "0", "-4", "four", "99999999"}) {
    expect_error(kOpenMpi, "OMPI_COMM_WORLD_SIZE", garbage);
  }
  expect_error(kOpenMpi, "OMPI_COMM_WORLD_RANK", std::nullopt);
  expect_error(kOpenMpi, "OMPI_COMM_WORLD_SIZE", std::nullopt);
  expect_error(kOpenMpi, "OMPI_COMM_WORLD_LOCAL_RANK", "2");
  expect_error(kOpenMpi, "OMPI_COMM_WORLD_LOCAL_SIZE", "5");
  expect_error({{"WORLD_SIZE", "2"}}, "RANK", std::nullopt);
  for (const char* garbage : {"x", "4(x", "4(x0)", "4(y2)", "4(x2", ",", "4(x1)"}) {
    expect_error(kSlurm, "SLURM_STEP_TASKS_PER_NODE", garbage);
  }
}

TEST(LaunchEnvironment, OneMachineCanPlaySeveralHosts) {
  Variables variables = kOpenMpi;  // rank 3 of 4
  variables["LOCKSTEP_FAKE_HOSTS"] = "a,b,a,b";
  const auto environment = detect(variables);
  expect(environment, Launcher::OpenMpi, 3, 4, 1, 2);
  EXPECT_EQ(environment.host, "b");
  variables["LOCKSTEP_FAKE_HOSTS"] = "a,a,a,c";
  expect(detect(variables), Launcher::OpenMpi, 3, 4, 0, 1);
  EXPECT_EQ(detect(kOpenMpi).host, "");
  for (const char* garbage : {"", "a,b,a", "a,b,a,b,a", "a,,b,b"}) {
    expect_error(kOpenMpi, "LOCKSTEP_FAKE_HOSTS", garbage);
  }
}

// --- several launchers, one inside the other ---

Lookup lookup_in(Variables variables) {
  return [variables = std::move(variables)](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}

Variables both(Variables one, const Variables& other) {
  one.insert(other.begin(), other.end());
  return one;
}

Variables open_mpi(const char* rank, const char* size) {
  return {{"OMPI_COMM_WORLD_RANK", rank}, {"OMPI_COMM_WORLD_SIZE", size}};
}
Variables mpich(const char* rank, const char* size) {
  return {{"PMI_RANK", rank}, {"PMI_SIZE", size}};
}
Variables torchrun(const char* rank, const char* size) {
  return {{"RANK", rank}, {"WORLD_SIZE", size}, {"LOCAL_RANK", rank}, {"LOCAL_WORLD_SIZE", size}};
}
Variables slurm_step(const char* rank, const char* size) {
  return {{"SLURM_PROCID", rank}, {"SLURM_NTASKS", size}, {"SLURM_STEP_NUM_TASKS", size}};
}

/// The launcher chosen by a process with `own` variables, whose ancestors began with the others,
/// the nearest first.
Launcher chosen(const Variables& own, const std::vector<Variables>& ancestors) {
  std::vector<Lookup> lookups{lookup_in(own)};
  for (const Variables& ancestor : ancestors) lookups.push_back(lookup_in(ancestor));
  const LauncherVariables* variables = choose_launcher(lookup_in(own), [&] { return lookups; });
  return variables == nullptr ? Launcher::Standalone : variables->launcher;
}

void expect_refusal(const Variables& own, const std::vector<Variables>& ancestors,
                    std::initializer_list<const char*> parts) {
  try {
    ADD_FAILURE() << to_string(chosen(own, ancestors)) << " was taken";
  } catch (const LaunchError& error) {
    const std::string text = error.what_without_backtrace();
    for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
}

TEST(LaunchEnvironment, TheInnermostLauncherCounts) {
  for (const char* rank : {"0", "1"}) {
    // mpirun -n 1 torchrun --nproc-per-node 2; srun --mpi=pmi2 -n 1 torchrun ...; and the reverse
    EXPECT_EQ(chosen(both(open_mpi("0", "1"), torchrun(rank, "2")), {open_mpi("0", "1"), {}}),
              Launcher::Torchrun);
    EXPECT_EQ(chosen(both(mpich("0", "1"), torchrun(rank, "2")), {mpich("0", "1"), {}}),
              Launcher::Torchrun);
    EXPECT_EQ(chosen(both(open_mpi(rank, "2"), torchrun("0", "1")), {torchrun("0", "1"), {}}),
              Launcher::OpenMpi);
    EXPECT_EQ(chosen(both(open_mpi("0", "1"), mpich(rank, "2")), {open_mpi("0", "1"), {}}),
              Launcher::Mpich);
    EXPECT_EQ(chosen(both(open_mpi("0", "1"), slurm_step(rank, "2")), {open_mpi("0", "1"), {}}),
              Launcher::Slurm);
    EXPECT_EQ(chosen(both(open_mpi(rank, "2"), slurm_step("1", "4")), {slurm_step("1", "4"), {}}),
              Launcher::OpenMpi);
    // torchrun inside torchrun, and a shell between
    const auto inner = both(open_mpi("3", "4"), torchrun(rank, "2"));
    EXPECT_EQ(chosen(inner, {inner, both(open_mpi("3", "4"), torchrun("0", "1"))}),
              Launcher::Torchrun);
  }
  // One launcher's variables twice are one world.
  EXPECT_EQ(chosen(both(open_mpi("1", "2"), {{"RANK", "1"}, {"WORLD_SIZE", "2"}}), {}),
            Launcher::OpenMpi);
}

TEST(LaunchEnvironment, TwoLaunchersThatContradictEachOtherAreAnError) {
  expect_refusal(both(open_mpi("0", "1"), torchrun("1", "2")), {},
                 {"Open MPI says rank 0 of 1 (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE)",
                  "torchrun says rank 1 of 2 (RANK, WORLD_SIZE)", "LOCKSTEP_LAUNCHER=openmpi",
                  "LOCKSTEP_LAUNCHER=torchrun"});
  expect_refusal(both(mpich("0", "1"), torchrun("0", "2")), {Variables{}},
                 {"MPICH says rank 0 of 1", "torchrun says rank 0 of 2"});
  expect_refusal(both(open_mpi("0", "2"), mpich("1", "2")), {}, {"Open MPI says", "MPICH says"});
  expect_refusal(both(open_mpi("0", "1"), slurm_step("3", "4")), {},
                 {"Open MPI says rank 0 of 1", "Slurm says rank 3 of 4"});
  // A garbled set is no reason to take the other one.
  expect_refusal(both(open_mpi("0", "1"), torchrun("x", "2")), {}, {"RANK is 'x'"});
  expect_refusal(both(open_mpi("0", "1"), {{"WORLD_SIZE", "2"}}), {},
                 {"WORLD_SIZE is '2' and RANK is not set", "Open MPI says rank 0 of 1"});
}

TEST(LaunchEnvironment, ARankAloneInsideAWorldOfSeveralIsAnError) {
  expect_refusal(both(open_mpi("1", "2"), torchrun("0", "1")), {open_mpi("1", "2"), {}},
                 {"torchrun says rank 0 of 1", "Open MPI around it says rank 1 of 2",
                  "LOCKSTEP_LAUNCHER=torchrun if that is meant"});
  EXPECT_EQ(chosen(both(both(open_mpi("1", "2"), torchrun("0", "1")),
                        {{"LOCKSTEP_LAUNCHER", "torchrun"}}),
                   {open_mpi("1", "2"), {}}),
            Launcher::Torchrun);
}

TEST(LaunchEnvironment, AnAllocationOfSlurmContradictsNobody) {
  const Variables allocation{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}};
  EXPECT_EQ(chosen(both(open_mpi("0", "1"), allocation), {}), Launcher::OpenMpi);
  EXPECT_EQ(chosen(both(torchrun("0", "1"), allocation), {}), Launcher::Torchrun);
  // A shell in a step starts one rank: taken, and said.
  std::vector<std::string> said;
  set_log_sink([&](logging::Level, std::string_view text) { said.emplace_back(text); });
  EXPECT_EQ(chosen(both(open_mpi("0", "1"), slurm_step("0", "4")), {slurm_step("0", "4"), {}}),
            Launcher::OpenMpi);
  set_log_sink(nullptr);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said.front().find("Slurm around it says rank 0 of 4"), std::string::npos);
}

TEST(LaunchEnvironment, OfTwoSetsForOneWorldTheOneThatKnowsTheHostCounts) {
  EXPECT_EQ(chosen(both(mpich("5", "11"), kSlurm), {}), Launcher::Slurm);  // srun --mpi=pmi2
  EXPECT_EQ(chosen(both(mpich("5", "11"), slurm_step("5", "11")), {}), Launcher::Mpich);
  // A script that the launcher starts exports them for programs that read nothing else.
  const Variables exported{{"RANK", "5"}, {"WORLD_SIZE", "11"}};
  const Variables on_hosts = both(open_mpi("5", "11"), {{"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                                        {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}});
  EXPECT_EQ(chosen(both(on_hosts, exported), {on_hosts, {}}), Launcher::OpenMpi);
  EXPECT_EQ(chosen(both(kSlurm, exported), {kSlurm, {}}), Launcher::Slurm);
}

TEST(LaunchEnvironment, AnUnknownLauncherIsNotTakenForNone) {
  expect_refusal({{"PMIX_RANK", "1"}}, {}, {"PMIX_RANK is '1'", "RANK and WORLD_SIZE"});
  EXPECT_EQ(chosen({{"PMIX_RANK", "1"}, {"LOCKSTEP_LAUNCHER", "standalone"}}, {}),
            Launcher::Standalone);
  expect_refusal({{"LOCKSTEP_LAUNCHER", "prun"}}, {},
                 {"LOCKSTEP_LAUNCHER is 'prun'", "openmpi, mpich, torchrun, slurm, or standalone"});
}

// What the tests above are told, /proc says of this process.
TEST(LaunchEnvironment, TheAncestorsOfThisProcessAreRead) {
  const auto ancestors = process_ancestors();
  ASSERT_GE(ancestors.size(), 1u);
  const char* path = std::getenv("PATH");
  EXPECT_EQ(ancestors.front()("PATH").value_or(""), path == nullptr ? "" : path);
  EXPECT_FALSE(ancestors.front()("LOCKSTEP_NO_SUCH_VARIABLE"));
}

}  // namespace
}  // namespace lockstep
