# Stands in for Proxmox's pct on a machine that is no node. Held to PVE/CLI/pct.pm, setup_default_cli_env of
# PVE/RESTEnvironment.pm, get_options of PVE/JSONSchema.pm and load_config of PVE/AbstractConfig.pm, in which `pct exec`:
#
# - is for root only
# - takes options up to --, as Getopt::Long reads them, and decodes all that follows by the locale of the session, in
#   which what cannot be decoded is lost
# - wants the configuration to be on this node, and the container to run; it dies with whatever errno there is
# - becomes lxc-attach with the environment of the session, unless --keep-env is off
use strict;
use warnings;
use Encode;
use Errno;
use Getopt::Long;
use I18N::Langinfo qw(langinfo CODESET);
use POSIX qw(setlocale LC_ALL);

die "please run as root\n" if $> != 0;
setlocale(LC_ALL, '');
$ENV{PATH} = '/sbin:/bin:/usr/sbin:/usr/bin';
my $directory = $ENV{STANDIN_NODE} or die "no node\n";
my ($node) = $directory =~ m|([^/]+)$|;

my $verb = shift @ARGV // '';
if ($verb ne 'exec') { print STDERR "ERROR: unknown command 'pct $verb'\n"; exit(-1); }

Getopt::Long::Configure('prefix_pattern=(--|-)');
my $options = {};
if (!Getopt::Long::GetOptionsFromArray(\@ARGV, $options, 'vmid=s', 'keep-env:s')) {
    print STDERR "400 unable to parse option\n";
    exit(-1);
}
my $vmid = shift @ARGV // '';
my @args = map { decode(langinfo(CODESET()), $_) } @ARGV;
my $keep = $options->{'keep-env'} // 1;
$keep = 1 if $keep eq '';
if ($keep !~ m/^(1|on|yes|true|0|off|no|false)$/i) { print STDERR "400 unable to parse boolean option\n"; exit(-1); }
$keep = $keep =~ m/^(1|on|yes|true)$/i;
if ($vmid !~ m/^[1-9][0-9]{2,8}$/) {
    print STDERR "400 Parameter verification failed.\nvmid: invalid format - value does not look like a valid VM ID\n";
    exit(-1);
}

if (open(my $log, '>>', "$directory/pct.log")) { print $log "exec $vmid\n"; close($log); }
select(undef, undef, undef, $ENV{STANDIN_START} || 0);

$! = $ENV{STANDIN_ERRNO} // Errno::ENOENT();
die "Configuration file 'nodes/$node/lxc/$vmid.conf' does not exist\n" if !-e "$directory/lxc/$vmid.conf";
$! = $ENV{STANDIN_ERRNO} // Errno::ENOTTY();
die "container '$vmid' not running!\n" if !-e "$directory/lxc/$vmid.pid";
die "missing command" if !@args;
exec('lxc-attach', '-n', $vmid, $keep ? '--keep-env' : '--clear-env', '--', @args);
