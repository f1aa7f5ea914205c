# Completion of mailslot for bash.
# Made from the table of options: RENEW=1 cargo test --test tidy
_mailslot() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    # --option=value is three words.
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $before in
    --config | -c | --aliases | -a | --tls-cert | --tls-key | --smarthost-ca | --smarthost-login | --metrics-file)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    --mail-dir | -m | --spool | -S | --sandbox)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        ;;
    --hand-over | --tls-required | --smarthost-from | --forward-files)
        mapfile -t COMPREPLY < <(compgen -W 'on off' -- "$word")
        ;;
    --vrfy | --expn | --forward-replies | --terminals)
        mapfile -t COMPREPLY < <(compgen -W 'on local off' -- "$word")
        ;;
    --log)
        mapfile -t COMPREPLY < <(compgen -W 'stderr syslog' -- "$word")
        ;;
    --smarthost-tls)
        mapfile -t COMPREPLY < <(compgen -W 'verify encrypt may' -- "$word")
        ;;
    --listen | -l | --lmtp | --hostname | -n | --domain | -d | --user | -u | --lock | --lock-timeout | --threads | -t | --max-size | -s | --max-recipients | --timeout | --session-timeout | --per-client | --mailbox-limit | --delimiter | --run-as | --smarthost | --smarthost-sender | --relay-from | --hold | --warn-after | --give-up-after) ;;
    queue)
        mapfile -t COMPREPLY < <(compgen -W 'show drop flush' -- "$word")
        ;;
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '--config -c --listen -l --lmtp --hostname -n --domain -d --user -u --aliases -a --mail-dir -m --spool -S --hand-over --sandbox --lock --lock-timeout --threads -t --max-size -s --max-recipients --timeout --session-timeout --per-client --mailbox-limit --delimiter --vrfy --expn --forward-replies --terminals --tls-cert --tls-key --tls-required --run-as --smarthost --smarthost-tls --smarthost-ca --smarthost-login --smarthost-sender --smarthost-from --relay-from --forward-files --hold --warn-after --give-up-after --inetd --json --log --metrics-file --verbose -v --quiet -q --help -h --version -V' -- "$word")
        elif [[ $COMP_CWORD -eq 1 ]]; then
            mapfile -t COMPREPLY < <(compgen -W 'check explain queue' -- "$word")
        fi
        ;;
    esac
}
complete -F _mailslot mailslot
